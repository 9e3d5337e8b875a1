use super::*;
use crate::fs::inode::FileSystem;
use crate::fs::mount::{MountFlags, MountTable, NewMount};
use crate::fs::path::{Dentry, Path};
use crate::fs::walk::{Follow, Last, ResolveFlags, Walker};
use crate::task::Credentials;
use crate::Errno;

fn new_mount(file_system: Arc<dyn FileSystem>) -> NewMount {
    NewMount { file_system, root: None, source: b"none".to_vec(), options: String::new(), flags: MountFlags::empty() }
}

fn symlink(directory: &Arc<dyn Inode>, name: &str, target: &str) {
    directory.create(name.as_bytes(), node(NewNodeKind::Symlink(target.into()), 0o777)).unwrap();
}

/// /dir/sub/file, /dir/up -> .., /abs -> /dir/sub, /loop -> loop, /file, and a tmpfs with "inside" at /dir/sub/mnt.
fn tree() -> (MountTable, Path) {
    let services = services();
    let table = MountTable::new();
    let root = table.set_root(new_mount(services.tmpfs(0, 0o755, "tmpfs")));
    let top = root.inode().clone();
    let directory = make_directory(&top, "dir");
    let sub = make_directory(&directory, "sub");
    make_file(&sub, "file", b"x");
    make_file(&top, "file", b"y");
    symlink(&directory, "up", "..");
    symlink(&top, "abs", "/dir/sub");
    symlink(&top, "loop", "loop");
    symlink(&top, "dangling", "nowhere");
    make_directory(&sub, "mnt");
    let place = walk(&table, &root, &root, "/dir/sub/mnt", Follow::Yes).unwrap();
    let mounted = services.tmpfs(0, 0o755, "tmpfs");
    let mount = table.mount_at(&place, new_mount(mounted)).unwrap();
    make_file(&mount.root.inode, "inside", b"z");
    (table, root)
}

fn walk(table: &MountTable, root: &Path, start: &Path, path: &str, follow: Follow) -> Result<Path> {
    let credentials = Credentials::new(0, 0, Vec::new());
    Walker::new(table, root.clone(), &credentials).walk(start, path.as_bytes(), follow)
}

fn name(root: &Path, path: &Path) -> String {
    String::from_utf8(path.absolute_name(root)).unwrap()
}

#[test]
fn names_lead_where_they_should() {
    let (table, root) = tree();
    for (path, expected) in [
        ("/", "/"),
        ("/..", "/"),
        ("//dir//sub/./file", "/dir/sub/file"),
        ("/dir/up/file", "/file"),
        ("/abs/file", "/dir/sub/file"),
        ("/abs", "/dir/sub"),
        ("/abs/", "/dir/sub"),
        ("/dir/sub/mnt/inside", "/dir/sub/mnt/inside"),
        ("/dir/sub/mnt/..", "/dir/sub"),
        ("/abs/mnt/../../up/dir", "/dir"),
    ] {
        let place = walk(&table, &root, &root, path, Follow::Yes).unwrap();
        assert_eq!(name(&root, &place), expected, "{path}");
    }
    assert_eq!(name(&root, &walk(&table, &root, &root, "abs", Follow::No).unwrap()), "/abs");
    // A trailing slash follows all the same.
    assert_eq!(name(&root, &walk(&table, &root, &root, "abs/", Follow::No).unwrap()), "/dir/sub");
}

#[test]
fn names_that_lead_nowhere_say_why() {
    let (table, root) = tree();
    for (path, errno) in [
        ("", Errno::ENOENT),
        ("/nothing", Errno::ENOENT),
        ("/nothing/more", Errno::ENOENT),
        ("/file/", Errno::ENOTDIR),
        ("/file/x", Errno::ENOTDIR),
        ("/file/..", Errno::ENOTDIR),
        ("/loop", Errno::ELOOP),
        ("/loop/x", Errno::ELOOP),
        ("/dangling", Errno::ENOENT),
    ] {
        assert_eq!(walk(&table, &root, &root, path, Follow::Yes).err(), Some(errno), "{path}");
    }
    let long = format!("/{}", "n".repeat(256));
    assert_eq!(walk(&table, &root, &root, &long, Follow::Yes).err(), Some(Errno::ENAMETOOLONG));
}

#[test]
fn a_root_confines() {
    let (table, root) = tree();
    let inner = walk(&table, &root, &root, "/dir", Follow::Yes).unwrap();
    assert_eq!(name(&root, &walk(&table, &inner, &inner, "/../../..", Follow::Yes).unwrap()), "/dir");
    assert_eq!(name(&root, &walk(&table, &inner, &inner, "up", Follow::Yes).unwrap()), "/dir");
    assert_eq!(name(&inner, &walk(&table, &inner, &inner, "/sub/file", Follow::Yes).unwrap()), "/sub/file");
    assert!(root.absolute_name_below(&inner).is_none());
}

#[test]
fn search_permission_is_needed_on_every_directory() {
    let (table, root) = tree();
    let directory = walk(&table, &root, &root, "/dir", Follow::Yes).unwrap();
    let attributes = crate::fs::inode::SetAttributes { permissions: Some(0o600), ..Default::default() };
    directory.inode().set_attributes(&attributes).unwrap();
    let stranger = Credentials::new(4711, 4711, Vec::new());
    let mut walker = Walker::new(&table, root.clone(), &stranger);
    assert_eq!(walker.walk(&root, b"/dir/sub", Follow::Yes).err(), Some(Errno::EACCES));
    assert!(walker.walk(&root, b"/dir", Follow::Yes).is_ok());
}

#[test]
fn openat2_rules() {
    let (table, root) = tree();
    let credentials = Credentials::new(0, 0, Vec::new());
    let check = |flags: ResolveFlags, start: &Path, top: &Path, path: &str| {
        let mut walker = Walker::new(&table, top.clone(), &credentials);
        walker.flags = flags;
        walker.walk(start, path.as_bytes(), Follow::Yes).err()
    };
    let inner = walk(&table, &root, &root, "/dir", Follow::Yes).unwrap();
    assert_eq!(check(ResolveFlags::BENEATH, &inner, &inner, "up"), Some(Errno::EXDEV));
    assert_eq!(check(ResolveFlags::BENEATH, &inner, &inner, "/sub"), Some(Errno::EXDEV));
    assert_eq!(check(ResolveFlags::BENEATH, &inner, &inner, "sub/../sub/file"), None);
    assert_eq!(check(ResolveFlags::IN_ROOT, &inner, &inner, "/up/sub/file"), None);
    assert_eq!(check(ResolveFlags::NO_SYMLINKS, &root, &root, "abs/file"), Some(Errno::ELOOP));
    assert_eq!(check(ResolveFlags::NO_XDEV, &root, &root, "dir/sub/mnt"), Some(Errno::EXDEV));
}

#[test]
fn the_parent_of_a_name() {
    let (table, root) = tree();
    let credentials = Credentials::new(0, 0, Vec::new());
    let parent = |path: &str| Walker::new(&table, root.clone(), &credentials).parent(&root, path.as_bytes());
    let (directory, last) = parent("/abs/new/").unwrap();
    assert_eq!(name(&root, &directory), "/dir/sub");
    assert_eq!(last, Last::Name { name: b"new".to_vec(), trailing_slash: true });
    assert_eq!(parent("/dir/.").unwrap().1, Last::Dot);
    assert_eq!(parent("/dir/..").unwrap().1, Last::DotDot);
    assert_eq!(parent("///").unwrap().1, Last::Root);
    assert_eq!(parent("/file/x").err(), Some(Errno::ENOTDIR));
}

#[test]
fn mounts_come_and_go() {
    let (table, root) = tree();
    let place = walk(&table, &root, &root, "/dir/sub/mnt", Follow::Yes).unwrap();
    assert_eq!(table.unmount(&root.mount, false), Err(Errno::EINVAL));
    let text = String::from_utf8(table.mounts_text(&root)).unwrap();
    assert_eq!(text, "none / tmpfs rw 0 0\nnone /dir/sub/mnt tmpfs rw 0 0\n");
    let services = services();
    let inner = make_directory(place.inode(), "inner");
    let at = Path { mount: place.mount.clone(), dentry: place.dentry.lookup(b"inner").unwrap() };
    assert!(crate::fs::path::same_inode(at.inode(), &inner));
    table.mount_at(&at, new_mount(services.tmpfs(0, 0o755, "tmpfs"))).unwrap();
    assert_eq!(table.unmount(&place.mount, false), Err(Errno::EBUSY));
    table.unmount(&place.mount, true).unwrap();
    assert_eq!(table.list().len(), 1);
    assert_eq!(walk(&table, &root, &root, "/dir/sub/mnt/inside", Follow::Yes).err(), Some(Errno::ENOENT));
}

#[test]
fn a_dentry_is_one_while_it_is_used() {
    let (_table, root) = tree();
    let one = root.dentry.lookup(b"dir").unwrap();
    assert!(Arc::ptr_eq(&one, &root.dentry.lookup(b"dir").unwrap()));
    let mut deep: Arc<Dentry> = one;
    let mut inode = deep.inode.clone();
    for _ in 0..50_000 {
        make_directory(&inode, "n");
        deep = deep.lookup(b"n").unwrap();
        inode = deep.inode.clone();
    }
    drop(inode);
    drop(deep);
}
