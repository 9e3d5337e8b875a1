use super::*;
use crate::fs::inode::FileSystem;
use crate::fs::inode::NewNode;
use crate::fs::mount::{MountFlags, NewMount};
use crate::fs::Services;

fn kernel() -> Arc<Kernel> {
    let kernel = crate::testing::kernel();
    let services = Services::new(Arc::default()).unwrap();
    kernel.mounts.set_root(new_mount(services.tmpfs(0, 0o755, "tmpfs")));
    let service = OutsideFiles::new(&kernel).unwrap();
    service.make_directory(b"/mnt", false, 0o700).unwrap();
    let place =
        crate::fs::walk::resolve_from_root(&kernel.mounts, &kernel.mounts.root().unwrap(), b"/mnt", Follow::Yes).unwrap();
    kernel.mounts.mount_at(&place, new_mount(services.tmpfs(0, 0o755, "tmpfs"))).unwrap();
    kernel
}

fn new_mount(file_system: Arc<dyn FileSystem>) -> NewMount {
    NewMount { file_system, root: None, source: b"none".to_vec(), options: String::new(), flags: MountFlags::empty() }
}

fn put(service: &OutsideFiles, path: &str, content: &[u8]) {
    service.write(path.as_bytes(), 0, content, true, 0o640).unwrap();
}

fn special(kernel: &Kernel, name: &str, kind: NewNodeKind) {
    kernel
        .mounts
        .root()
        .unwrap()
        .inode()
        .create(name.as_bytes(), NewNode { kind, permissions: 0o777, uid: 0, gid: 0 })
        .unwrap();
}

#[test]
fn what_is_written_is_read() {
    let kernel = kernel();
    let service = OutsideFiles::new(&kernel).unwrap();
    put(&service, "/file", b"0123456789");
    assert_eq!(service.read(b"/file", 2, 3), Ok((b"234".to_vec(), false)));
    assert_eq!(service.read(b"/file", 5, 5), Ok((b"56789".to_vec(), true)));
    assert!(service.read(b"/file", 100, u64::MAX).unwrap().1);
    assert!(!service.read(b"/file", 0, 0).unwrap().1);
    service.write(b"/file", 12, b"x", false, 0).unwrap();
    assert_eq!(service.read(b"/file", 0, 99).unwrap().0, b"0123456789\0\0x");
    let stat = service.stat(b"/file", Follow::Yes).unwrap().metadata;
    assert_eq!((stat.kind, stat.size, stat.permissions, stat.uid), (FileType::Regular, 13, 0o640, 0));
    assert_eq!(service.write(b"/file", i64::MAX as u64, b"x", false, 0), Err(Errno::EFBIG));
    assert_eq!(service.read(b"/file", u64::MAX, 1), Err(Errno::EINVAL));
    service.rename(b"/file", b"/mnt/../other").unwrap();
    assert_eq!(service.rename(b"/other", b"/mnt/other"), Err(Errno::EXDEV));
    assert_eq!(service.read(b"/file", 0, 1), Err(Errno::ENOENT));
}

#[test]
fn paths_are_checked() {
    let kernel = kernel();
    let service = OutsideFiles::new(&kernel).unwrap();
    let long = [&b"/"[..], &[b'a'; 4096]].concat();
    for (path, expected) in
        [(&b""[..], Errno::EINVAL), (b"relative", Errno::EINVAL), (b"/a\0b", Errno::EINVAL), (&long, Errno::ENAMETOOLONG)]
    {
        assert_eq!(service.read(path, 0, 1).err(), Some(expected));
        assert_eq!(service.stat(path, Follow::No).err(), Some(expected));
        assert_eq!(service.list(path).err(), Some(expected));
        assert_eq!(service.remove_all(path).err(), Some(expected));
        assert_eq!(service.make_directory(path, true, 0o755).err(), Some(expected));
        assert_eq!(service.rename(path, b"/x").err(), Some(expected));
    }
}

#[test]
fn what_could_wait_is_not_opened() {
    let kernel = kernel();
    let service = OutsideFiles::new(&kernel).unwrap();
    special(&kernel, "fifo", NewNodeKind::Fifo);
    special(&kernel, "null", NewNodeKind::CharacterDevice(crate::fs::inode::Device::new(1, 3)));
    special(&kernel, "link", NewNodeKind::Symlink(b"../fifo".to_vec()));
    for path in [&b"/fifo"[..], b"/null", b"/link"] {
        assert_eq!(service.read(path, 0, 1), Err(Errno::ENXIO));
        assert_eq!(service.write(path, 0, b"x", true, 0), Err(Errno::ENXIO));
    }
    assert_eq!(service.stat(b"/link", Follow::No).unwrap().metadata.kind, FileType::Symlink);
    assert_eq!(service.stat(b"/link", Follow::Yes).unwrap().metadata.kind, FileType::Fifo);
    service.remove(b"/fifo").unwrap();
    assert_eq!(service.read(b"/mnt", 0, 1), Err(Errno::EISDIR));
    assert_eq!(service.write(b"/mnt", 0, b"", true, 0), Err(Errno::EISDIR));
}

#[test]
fn trees_are_made_listed_and_removed() {
    let kernel = kernel();
    let service = OutsideFiles::new(&kernel).unwrap();
    assert_eq!(service.make_directory(b"/a/b/c", false, 0o700), Err(Errno::ENOENT));
    service.make_directory(b"//a/./b//c/", true, 0o1700).unwrap();
    assert_eq!(service.make_directory(b"/a/b/c", true, 0o700), Err(Errno::EEXIST));
    assert_eq!(
        (
            service.stat(b"/a/b/", Follow::Yes).unwrap().metadata.permissions,
            service.stat(b"/a/b/c", Follow::Yes).unwrap().metadata.permissions
        ),
        (0o755, 0o1700)
    );
    put(&service, "/kept", b"");
    for number in 0..1200 {
        put(&service, &format!("/a/b/{number}"), b"x");
    }
    service.make_directory(b"/a/deep", true, 0o700).unwrap();
    let deep = ["/a/deep".to_string(), "/d".repeat(600)].concat();
    service.make_directory(deep.as_bytes(), true, 0o700).unwrap();
    special(&kernel, "outside", NewNodeKind::Symlink(b"/kept".to_vec()));
    service.rename(b"/outside", b"/a/outside").unwrap();
    let mut names: Vec<_> = service.list(b"/a").unwrap().into_iter().map(|entry| (entry.name, entry.metadata.kind)).collect();
    names.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [("b", FileType::Directory), ("deep", FileType::Directory), ("outside", FileType::Symlink)];
    assert_eq!(names, expected.map(|(name, kind)| (name.as_bytes().to_vec(), kind)));
    assert_eq!(service.list(b"/a/b").unwrap().len(), 1201);
    assert_eq!(service.list(b"/kept").err(), Some(Errno::ENOTDIR));
    assert_eq!(service.remove(b"/a"), Err(Errno::ENOTEMPTY));
    service.remove_all(b"/a").unwrap();
    assert_eq!(service.remove_all(b"/a"), Err(Errno::ENOENT));
    service.remove_all(b"/kept").unwrap();
    for path in [&b"/mnt"[..], b"/", b"/."] {
        assert!(service.remove_all(path).is_err());
    }
    service.make_directory(b"/mnt/x/y", true, 0o700).unwrap();
    service.remove_all(b"/mnt/x").unwrap();
    assert_eq!(kernel.pids.task_count(), 0);
}
