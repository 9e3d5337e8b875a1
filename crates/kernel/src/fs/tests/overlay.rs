use super::*;
use crate::fs::inode::{FileSystem, RenameFlags, SetAttributes};
use crate::fs::overlay::Overlay;
use crate::Errno;

struct Fixture {
    lower: HostDirectory,
    upper: Option<HostDirectory>,
    services: Arc<Services>,
    root: Arc<dyn Inode>,
}

/// Lower: a, d/x, d/y, d/e/z, link -> a.
fn fixture(name: &str, persistent: bool) -> Fixture {
    let lower = HostDirectory::new(&format!("{name}-{persistent}-lower"));
    std::fs::write(lower.path().join("a"), b"lower a").unwrap();
    std::fs::create_dir_all(lower.path().join("d/e")).unwrap();
    std::fs::write(lower.path().join("d/x"), b"x").unwrap();
    std::fs::write(lower.path().join("d/y"), b"y").unwrap();
    std::fs::write(lower.path().join("d/e/z"), b"z").unwrap();
    std::os::unix::fs::symlink("a", lower.path().join("link")).unwrap();
    let upper = persistent.then(|| HostDirectory::new(&format!("{name}-upper")));
    let services = services();
    let root = overlay(&services, &lower, upper.as_ref());
    Fixture { lower, upper, services, root }
}

fn overlay(services: &Arc<Services>, lower: &HostDirectory, upper: Option<&HostDirectory>) -> Arc<dyn Inode> {
    let upper: Arc<dyn FileSystem> = match upper {
        Some(upper) => upper.tree(services, Access::Private),
        None => services.tmpfs(0, 0o755, "tmpfs"),
    };
    let overlay = Overlay::new(services.new_device(), lower.tree(services, Access::ReadOnly), upper).unwrap();
    overlay.root()
}

fn both(name: &str, check: impl Fn(Fixture)) {
    check(fixture(name, false));
    check(fixture(name, true));
}

fn find(root: &Arc<dyn Inode>, path: &str) -> Result<Arc<dyn Inode>> {
    path.split('/').try_fold(root.clone(), |inode, name| inode.lookup(name.as_bytes()))
}

impl Fixture {
    /// The same trees seen anew, as by the next sandbox; the same one where the upper tree is in memory.
    fn again(&self) -> Arc<dyn Inode> {
        match &self.upper {
            Some(upper) => overlay(&self.services, &self.lower, Some(upper)),
            None => self.root.clone(),
        }
    }
}

#[test]
fn only_what_shows_of_the_lower_tree_is_opened_as_listed() {
    both("listed", |fixture| {
        let directory = find(&fixture.root, "d").unwrap();
        let opens = |name: &[u8]| directory.open_listed(name, StatusFlags::empty(), &mut |_| true);
        let opened = opens(b"x").unwrap();
        let found = directory.lookup(b"x").unwrap();
        assert!(crate::fs::path::same_inode(&opened.inode, &found));
        assert_eq!(format!("{:?}", opened.metadata), format!("{:?}", found.metadata().unwrap()));
        // Who writes it later is read by who opened it before.
        let file = OpenFile::new(opened.operations, StatusFlags::empty(), None);
        write(&found, b"new", 0).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(file.operations.read(&file, &mut buffer, 0), Ok(3));
        assert!(opens(b"x").is_none());
        assert!(opens(b"y").is_some());
        directory.unlink(b"y").unwrap();
        assert!(opens(b"y").is_none());
        make_file(&directory, "y", b"another");
        assert!(opens(b"y").is_none() && opens(b"e").is_none());
    });
}

#[test]
fn writing_copies_up_and_leaves_the_lower_tree_alone() {
    both("copy-up", |fixture| {
        let file = find(&fixture.root, "d/e/z").unwrap();
        let number = file.metadata().unwrap().inode;
        let reader = open(&file, StatusFlags::empty());
        write(&file, b"Z!", 0).unwrap();
        assert_eq!(read(&file), b"Z!");
        // Who had it open for reading sees the change.
        let mut buffer = [0; 2];
        assert_eq!(reader.operations.read(&reader, &mut buffer, 0), Ok(2));
        assert_eq!(file.metadata().unwrap().inode, number);
        assert_eq!(std::fs::read(fixture.lower.path().join("d/e/z")).unwrap(), b"z");
        let again = find(&fixture.again(), "d/e/z").unwrap();
        assert_eq!(read(&again), b"Z!");
        assert_eq!(again.metadata().unwrap().inode, number);
        assert_eq!(names(&find(&fixture.again(), "d").unwrap()), ["e", "x", "y"]);
    });
}

#[test]
fn attributes_copy_up_too() {
    both("attributes", |fixture| {
        let file = find(&fixture.root, "a").unwrap();
        let modified = file.metadata().unwrap().modified;
        file.set_attributes(&SetAttributes { permissions: Some(0o600), ..Default::default() }).unwrap();
        assert_eq!(file.metadata().unwrap().permissions, 0o600);
        assert_eq!(file.metadata().unwrap().modified, modified);
        assert_eq!(read(&file), b"lower a");
        file.set_attributes(&SetAttributes { size: Some(5), ..Default::default() }).unwrap();
        assert_eq!(read(&find(&fixture.again(), "a").unwrap()), b"lower");
    });
}

#[test]
fn what_is_removed_stays_away() {
    both("whiteout", |fixture| {
        fixture.root.unlink(b"a").unwrap();
        assert_eq!(fixture.root.lookup(b"a").err(), Some(Errno::ENOENT));
        assert_eq!(names(&fixture.root), ["d", "link"]);
        let again = fixture.again();
        assert_eq!(again.lookup(b"a").err(), Some(Errno::ENOENT));
        assert_eq!(names(&again), ["d", "link"]);
        make_file(&again, "a", b"new a");
        assert_eq!(read(&again.lookup(b"a").unwrap()), b"new a");
        again.unlink(b"a").unwrap();
        assert_eq!(again.lookup(b"a").err(), Some(Errno::ENOENT));
        assert!(fixture.lower.path().join("a").exists());
    });
}

#[test]
fn a_directory_made_again_is_empty() {
    both("opaque", |fixture| {
        let directory = find(&fixture.root, "d").unwrap();
        assert_eq!(fixture.root.remove_directory(b"d"), Err(Errno::ENOTEMPTY));
        directory.lookup(b"e").unwrap().unlink(b"z").unwrap();
        directory.remove_directory(b"e").unwrap();
        directory.unlink(b"x").unwrap();
        directory.unlink(b"y").unwrap();
        fixture.root.remove_directory(b"d").unwrap();
        assert_eq!(fixture.root.lookup(b"d").err(), Some(Errno::ENOENT));
        make_directory(&fixture.root, "d");
        let again = find(&fixture.again(), "d").unwrap();
        assert_eq!(names(&again), Vec::<String>::new());
        assert_eq!(again.lookup(b"x").err(), Some(Errno::ENOENT));
    });
}

#[test]
fn a_lower_directory_moves_with_what_is_in_it() {
    both("redirect", |fixture| {
        fixture.root.rename(b"d", &fixture.root, b"moved", RenameFlags::empty()).unwrap();
        let again = fixture.again();
        assert_eq!(again.lookup(b"d").err(), Some(Errno::ENOENT));
        assert_eq!(names(&find(&again, "moved").unwrap()), ["e", "x", "y"]);
        assert_eq!(read(&find(&again, "moved/e/z").unwrap()), b"z");
        write(&find(&again, "moved/x").unwrap(), b"X", 0).unwrap();
        // A new directory of the old name is another one.
        make_directory(&again, "d");
        assert_eq!(names(&find(&fixture.again(), "d").unwrap()), Vec::<String>::new());
        // And it moves again, into another.
        again.rename(b"moved", &find(&again, "d").unwrap(), b"inner", RenameFlags::empty()).unwrap();
        let again = fixture.again();
        assert_eq!(read(&find(&again, "d/inner/x").unwrap()), b"X");
        assert_eq!(read(&find(&again, "d/inner/e/z").unwrap()), b"z");
        assert_eq!(names(&again), ["a", "d", "link"]);
    });
}

#[test]
fn files_are_renamed_replaced_and_exchanged() {
    both("rename", |fixture| {
        let root = &fixture.root;
        root.rename(b"a", &find(root, "d").unwrap(), b"x", RenameFlags::empty()).unwrap();
        assert_eq!(read(&find(root, "d/x").unwrap()), b"lower a");
        assert_eq!(root.lookup(b"a").err(), Some(Errno::ENOENT));
        let directory = find(root, "d").unwrap();
        directory.rename(b"x", &directory, b"y", RenameFlags::EXCHANGE).unwrap();
        let again = fixture.again();
        assert_eq!(read(&find(&again, "d/x").unwrap()), b"y");
        assert_eq!(read(&find(&again, "d/y").unwrap()), b"lower a");
        assert_eq!(names(&find(&again, "d").unwrap()), ["e", "x", "y"]);
        let directory = find(&again, "d").unwrap();
        assert_eq!(directory.rename(b"x", &directory, b"e", RenameFlags::empty()), Err(Errno::EISDIR));
        assert_eq!(directory.rename(b"e", &directory, b"x", RenameFlags::empty()), Err(Errno::ENOTDIR));
        assert_eq!(directory.rename(b"x", &directory, b"y", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    });
}

#[test]
fn a_new_directory_over_an_empty_lower_one_does_not_merge_with_it() {
    both("over", |fixture| {
        let root = &fixture.root;
        let directory = find(root, "d/e").unwrap();
        directory.unlink(b"z").unwrap();
        let new = make_directory(root, "new");
        make_file(&new, "only", b"1");
        root.rename(b"new", &find(root, "d").unwrap(), b"e", RenameFlags::empty()).unwrap();
        assert_eq!(names(&find(&fixture.again(), "d/e").unwrap()), ["only"]);
    });
}

#[test]
fn hard_links_and_unlinked_files() {
    both("links", |fixture| {
        let root = &fixture.root;
        let file = find(root, "a").unwrap();
        root.link(b"b", &file).unwrap();
        assert_eq!(file.metadata().unwrap().links, 2);
        assert!(crate::fs::path::same_inode(&file, &root.lookup(b"b").unwrap()));
        write(&file, b"LOWER", 0).unwrap();
        assert_eq!(read(&find(&fixture.again(), "b").unwrap()), b"LOWER a");
        let held = find(root, "d/x").unwrap();
        let reader = open(&held, StatusFlags::empty());
        find(root, "d").unwrap().unlink(b"x").unwrap();
        assert_eq!(held.metadata().unwrap().links, 0);
        held.set_attributes(&SetAttributes { size: Some(0), ..Default::default() }).unwrap();
        assert_eq!(reader.operations.size(), Ok(0));
        assert_eq!(names(&find(&fixture.again(), "d").unwrap()), ["e", "y"]);
    });
}

#[test]
fn our_own_marks_are_not_the_guests() {
    let fixture = fixture("marks", false);
    let file = find(&fixture.root, "a").unwrap();
    write(&file, b"x", 0).unwrap();
    assert_eq!(file.list_xattr().unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(file.set_xattr(b"user.overlay.opaque", b"y", 0), Err(Errno::EPERM));
    file.set_xattr(b"user.mine", b"1", 0).unwrap();
    assert_eq!(file.list_xattr().unwrap(), [b"user.mine".to_vec()]);
    let whiteout = node(NewNodeKind::CharacterDevice(Default::default()), 0o600);
    assert_eq!(fixture.root.create(b"w", whiteout).err(), Some(Errno::EPERM));
}
