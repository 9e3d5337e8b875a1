use super::*;
use crate::fs::file::MappingRequest;
use crate::fs::inode::{FileSystem, FileType, RenameFlags, SetAttributes};
use crate::Errno;
use std::sync::atomic::Ordering;

#[test]
fn data_grows_from_heap_to_memfd_and_goes_back_to_the_quota() {
    let services = services();
    let root = services.tmpfs(0, 0o755, "tmpfs").root();
    let file = make_file(&root, "f", b"hello");
    assert_eq!(read(&file), b"hello");
    let big = vec![7u8; 300_000];
    write(&file, &big, 5).unwrap();
    assert_eq!(file.metadata().unwrap().size, 300_005);
    assert_eq!(&read(&file)[..6], b"hello\x07");
    assert!(services.memory_files.used.load(Ordering::Relaxed) >= 300_000);
    root.unlink(b"f").unwrap();
    assert_eq!(file.metadata().unwrap().links, 0);
    assert_eq!(read(&file).len(), 300_005);
    drop(file);
    assert_eq!(services.memory_files.used.load(Ordering::Relaxed), 0);
    drop(root);
}

#[test]
fn a_full_file_system_says_so() {
    let services = services();
    let root = services.tmpfs(1 << 20, 0o755, "tmpfs").root();
    let file = make_file(&root, "f", b"");
    let piece = vec![1u8; 100_000];
    let mut offset = 0;
    let errno = loop {
        match write(&file, &piece, offset) {
            Ok(count) => offset += count as u64,
            Err(errno) => break errno,
        }
        assert!(offset < 1 << 21);
    };
    assert_eq!(errno, Errno::ENOSPC);
    // What is there can be overwritten.
    assert_eq!(write(&file, b"x", 0).unwrap(), 1);
    file.set_attributes(&SetAttributes { size: Some(0), ..Default::default() }).unwrap();
    assert_eq!(write(&file, &piece, 0).unwrap(), 100_000);
    // Sparse files cost what they hold.
    assert_eq!(write(&file, b"end", 1 << 40).unwrap(), 3);
}

#[test]
fn mapping_a_small_file_keeps_its_content_and_later_writes_show() {
    use std::os::unix::fs::FileExt;
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    let file = make_file(&root, "f", b"small");
    let open = open(&file, StatusFlags::RDWR);
    let request = MappingRequest { shared: false, writable: true, offset: 0, length: 4096 };
    let descriptor = open.operations.mapping_descriptor(request).unwrap();
    write(&file, b"SM", 0).unwrap();
    let host = std::fs::File::from(descriptor.try_clone().unwrap());
    let mut buffer = [0; 5];
    host.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"SMall");
    assert!(host.write_at(b"no", 0).is_err());
}

#[test]
fn names_links_and_directories() {
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    let file = make_file(&root, "a", b"1");
    let directory = make_directory(&root, "d");
    assert_eq!(root.metadata().unwrap().links, 3);
    directory.link(b"b", &file).unwrap();
    assert_eq!(file.metadata().unwrap().links, 2);
    assert_eq!(root.unlink(b"d").unwrap_err(), Errno::EISDIR);
    assert_eq!(root.remove_directory(b"d").unwrap_err(), Errno::ENOTEMPTY);
    assert_eq!(root.remove_directory(b"a").unwrap_err(), Errno::ENOTDIR);
    assert_eq!(names(&root), ["a", "d"]);
    root.rename(b"a", &directory, b"c", RenameFlags::empty()).unwrap();
    assert_eq!(names(&directory), ["b", "c"]);
    directory.unlink(b"b").unwrap();
    directory.unlink(b"c").unwrap();
    root.remove_directory(b"d").unwrap();
    assert_eq!(directory.create(b"x", node(NewNodeKind::Regular, 0o644)).err(), Some(Errno::ENOENT));
    assert_eq!(names(&root), Vec::<String>::new());
}

#[test]
fn exchange_and_noreplace() {
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    make_file(&root, "a", b"A");
    make_directory(&root, "d");
    assert_eq!(root.rename(b"a", &root, b"d", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
    root.rename(b"a", &root, b"d", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(root.lookup(b"a").unwrap().kind(), FileType::Directory);
    assert_eq!(read(&root.lookup(b"d").unwrap()), b"A");
    assert_eq!(root.metadata().unwrap().links, 3);
    let other = make_directory(&root, "other");
    root.rename(b"d", &other, b"d", RenameFlags::empty()).unwrap();
    root.rename(b"a", &other, b"d", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((root.metadata().unwrap().links, other.metadata().unwrap().links), (3, 3));
    other.rename(b"d", &root, b"b", RenameFlags::empty()).unwrap();
    root.unlink(b"a").unwrap();
    root.remove_directory(b"b").unwrap();
    assert_eq!((root.metadata().unwrap().links, other.metadata().unwrap().links), (3, 2));
}

#[test]
fn a_listing_survives_deletion_of_what_it_has_shown() {
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    for index in 0..1000 {
        make_file(&root, &format!("f{index}"), b"");
    }
    let open = root.clone().open_data(StatusFlags::DIRECTORY).unwrap();
    let mut cursor = 0;
    let mut seen = 0;
    loop {
        let mut batch = Vec::new();
        open.read_directory(cursor, &mut |entry| {
            if batch.len() == 10 {
                return false;
            }
            cursor = entry.next_cursor;
            batch.push(entry.name.to_vec());
            true
        })
        .unwrap();
        if batch.is_empty() {
            break;
        }
        for name in batch.iter().filter(|name| !name.starts_with(b".")) {
            root.unlink(name).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 1000);
    assert_eq!(names(&root), Vec::<String>::new());
}

#[test]
fn a_file_without_a_name_can_get_one() {
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    let file = root.create_unnamed(node(NewNodeKind::Regular, 0o600)).unwrap();
    write(&file, b"x", 0).unwrap();
    assert_eq!(file.metadata().unwrap().links, 0);
    root.link(b"named", &file).unwrap();
    assert_eq!(file.metadata().unwrap().links, 1);
    root.unlink(b"named").unwrap();
    assert_eq!(root.link(b"again", &file).unwrap_err(), Errno::ENOENT);
}

#[test]
fn a_very_deep_tree_goes_without_overflowing_the_stack() {
    let services = services();
    let root = services.tmpfs(0, 0o755, "tmpfs").root();
    let mut directory = root.clone();
    for _ in 0..100_000 {
        directory = make_directory(&directory, "d");
    }
    drop(directory);
    root.rename(b"d", &root, b"e", RenameFlags::empty()).unwrap();
    drop(root);
    assert_eq!(services.memory_files.used.load(Ordering::Relaxed), 0);
}

#[test]
fn seals_hold() {
    let tmpfs = services().tmpfs(0, 0o755, "tmpfs");
    let file = tmpfs.anonymous_file(0o600, 0, 0).unwrap();
    assert_eq!(file.add_seals(2), Err(Errno::EPERM));
    file.allow_sealing();
    let inode: Arc<dyn Inode> = file.clone();
    write(&inode, b"12345678", 0).unwrap();
    file.add_seals(4).unwrap();
    assert_eq!(write(&inode, b"12345678", 4), Err(Errno::EPERM));
    assert_eq!(write(&inode, b"1234", 4), Ok(4));
    file.add_seals(8 | 1).unwrap();
    assert_eq!(write(&inode, b"1", 0), Err(Errno::EPERM));
    assert_eq!(file.add_seals(2), Err(Errno::EPERM));
}

#[test]
fn what_is_appended_here_and_by_a_process_itself_is_all_there() {
    const EACH: usize = 20_000;
    let root = services().tmpfs(0, 0o755, "tmpfs").root();
    let file = make_file(&root, "f", b"");
    let mode = StatusFlags::WRONLY | StatusFlags::APPEND;
    let (own, direct) = (open(&file, mode), open(&file, mode));
    let host = direct.operations.host_description(mode, 0).unwrap().unwrap();
    let process = std::thread::spawn(move || {
        for _ in 0..EACH {
            assert_eq!(rustix::io::write(&*host.descriptor, b"process\n"), Ok(8));
        }
    });
    for written in 1..=EACH {
        let (count, end) = own.operations.append(&own, b"sentry\n").unwrap();
        assert!(count == 7 && end >= 7 * written as u64);
    }
    process.join().unwrap();
    assert_eq!(file.metadata().unwrap().size, 15 * EACH as u64);
    let text = String::from_utf8(read(&file)).unwrap();
    assert_eq!(text.lines().filter(|line| *line == "sentry").count(), EACH);
    assert_eq!(text.lines().count(), 2 * EACH);
}
