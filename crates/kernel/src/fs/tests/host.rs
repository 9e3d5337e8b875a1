use super::*;
use crate::fs::inode::{FileSystem, FileType, RenameFlags, SetAttributes};
use crate::Errno;

#[test]
fn a_read_only_tree_is_read_and_not_written() {
    let host = HostDirectory::new("ro");
    std::fs::create_dir(host.path().join("d")).unwrap();
    std::fs::write(host.path().join("d/f"), b"content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", host.path().join("link")).unwrap();
    let root = host.tree(&services(), Access::ReadOnly).root();
    let directory = root.lookup(b"d").unwrap();
    let file = directory.lookup(b"f").unwrap();
    assert_eq!(read(&file), b"content");
    assert_eq!(file.metadata().unwrap().size, 7);
    let link = root.lookup(b"link").unwrap();
    assert_eq!(link.kind(), FileType::Symlink);
    assert_eq!(link.read_link().unwrap(), b"/etc/passwd");
    assert_eq!(names(&root), ["d", "link"]);
    assert_eq!(root.create(b"x", node(NewNodeKind::Regular, 0o644)).err(), Some(Errno::EROFS));
    assert_eq!(file.clone().open_data(StatusFlags::RDWR).err(), Some(Errno::EROFS));
    assert_eq!(root.lookup(b"nothing").err(), Some(Errno::ENOENT));
    assert_eq!(file.lookup(b"x").err(), Some(Errno::ENOTDIR));
}

#[test]
fn a_read_write_tree_is_written_on_the_host() {
    let host = HostDirectory::new("rw");
    let root = host.tree(&services(), Access::ReadWrite).root();
    let file = make_file(&root, "f", b"abc");
    assert_eq!(std::fs::read(host.path().join("f")).unwrap(), b"abc");
    file.set_attributes(&SetAttributes { permissions: Some(0o600), size: Some(2), ..Default::default() }).unwrap();
    assert_eq!(file.metadata().unwrap().permissions, 0o600);
    let directory = make_directory(&root, "d");
    root.rename(b"f", &directory, b"g", RenameFlags::empty()).unwrap();
    assert_eq!(read(&file), b"ab");
    directory.link(b"h", &file).unwrap();
    assert_eq!(file.metadata().unwrap().links, 2);
    // The last names go while it is in use.
    directory.unlink(b"g").unwrap();
    directory.unlink(b"h").unwrap();
    assert_eq!(file.metadata().unwrap().links, 0);
    root.remove_directory(b"d").unwrap();
    assert_eq!(names(&root), Vec::<String>::new());
    let unnamed = root.create_unnamed(node(NewNodeKind::Regular, 0o644)).unwrap();
    write(&unnamed, b"tmp", 0).unwrap();
    root.link(b"t", &unnamed).unwrap();
    assert_eq!(std::fs::read(host.path().join("t")).unwrap(), b"tmp");
}

#[test]
fn what_is_no_file_is_never_opened_on_the_host() {
    let host = HostDirectory::new("special");
    let fifo = host.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(host.path().join("socket")).unwrap();
    let root = host.tree(&services(), Access::ReadWrite).root();
    for name in [&b"fifo"[..], b"socket"] {
        assert_eq!(root.lookup(name).unwrap().open_data(StatusFlags::RDWR).err(), Some(Errno::ENXIO));
    }
    assert_eq!(
        root.create(b"null", node(NewNodeKind::CharacterDevice(crate::fs::inode::Device::new(1, 3)), 0o666)).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(root.create(b"zero", node(NewNodeKind::CharacterDevice(Default::default()), 0o666)).err(), Some(Errno::EPERM));
}

#[test]
fn only_plain_files_are_opened_as_listed() {
    let host = HostDirectory::new("listed");
    std::fs::write(host.path().join("f"), b"content").unwrap();
    std::fs::create_dir(host.path().join("d")).unwrap();
    std::os::unix::fs::symlink("f", host.path().join("link")).unwrap();
    let fifo = host.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let root = host.tree(&services(), Access::ReadOnly).root();
    let opened = root.open_listed(b"f", StatusFlags::empty(), &mut |_| true).unwrap();
    assert!(crate::fs::path::same_inode(&opened.inode, &root.lookup(b"f").unwrap()));
    assert_eq!((opened.metadata.size, read(&opened.inode)), (7, b"content".to_vec()));
    let mut buffer = [0; 8];
    let file = OpenFile::new(opened.operations, StatusFlags::empty(), None);
    assert_eq!(file.operations.read(&file, &mut buffer, 0), Ok(7));
    for name in ["d", "link", "fifo", "nothing"] {
        assert!(root.open_listed(name.as_bytes(), StatusFlags::empty(), &mut |_| true).is_none(), "{name}");
    }
    assert!(root.open_listed(b"f", StatusFlags::empty(), &mut |_| false).is_none());
    // Others of the sandbox's own may write there.
    let root = host.tree(&services(), Access::ReadWrite).root();
    assert!(root.open_listed(b"f", StatusFlags::empty(), &mut |_| true).is_none());
}

#[test]
fn a_file_that_the_host_replaces_is_seen_anew_and_never_mixed_up() {
    let host = HostDirectory::new("replaced");
    std::fs::write(host.path().join("f"), b"old").unwrap();
    let root = host.tree(&services(), Access::ReadOnly).root();
    let old = root.lookup(b"f").unwrap();
    let open_old = open(&old, StatusFlags::empty());
    std::fs::write(host.path().join("g"), b"new").unwrap();
    std::fs::rename(host.path().join("g"), host.path().join("f")).unwrap();
    assert_eq!(old.metadata().err(), Some(Errno::ESTALE));
    assert_eq!(read(&root.lookup(b"f").unwrap()), b"new");
    let mut buffer = [0; 3];
    open_old.operations.read(&open_old, &mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"old");
}

#[test]
fn many_directories_in_use_hold_few_descriptors() {
    use crate::fs::host::{DescriptorCache, HostTree, Reopener};
    const COUNT: usize = 400;
    const KEPT: usize = 50;
    let host = HostDirectory::new("many");
    for index in 0..COUNT {
        std::fs::create_dir(host.path().join(index.to_string())).unwrap();
        std::fs::write(host.path().join(index.to_string()).join("f"), index.to_string()).unwrap();
    }
    let cache = DescriptorCache::new(KEPT, Reopener::new().unwrap());
    let top = rustix::fs::open(host.path(), rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into()).unwrap();
    let root = HostTree::new(top, Access::ReadOnly, IdMap::default(), cache).unwrap().root();
    // Other tests run in this process too: only descriptors below this directory count.
    let held = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|name| name.starts_with(host.path()))
            .count()
    };
    let files: Vec<_> =
        (0..COUNT).map(|index| root.lookup(index.to_string().as_bytes()).unwrap().lookup(b"f").unwrap()).collect();
    assert!(held() <= KEPT + 2, "{}", held());
    for (index, file) in files.iter().enumerate() {
        assert_eq!(read(file), index.to_string().as_bytes());
    }
    assert!(held() <= KEPT + 2, "{}", held());
}

#[test]
fn ids_appear_as_the_map_says() {
    let map = IdMap { root: Some((1000, 1001)) };
    assert_eq!((map.uid_inside(1000), map.uid_inside(5), map.gid_inside(1001)), (0, 5, 0));
    assert_eq!((map.uid_outside(0), map.uid_outside(5), map.gid_outside(0)), (1000, 5, 1001));
}
