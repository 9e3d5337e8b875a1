//! Names that stay known: what the host changes is seen at once, and what is kept is limited.

use super::*;
use crate::fs::inode::FileSystem;
use crate::fs::mount::{MountFlags, MountTable, NewMount};
use crate::fs::overlay::Overlay;
use crate::fs::path::Path;
use crate::fs::walk::{resolve_from_root, Follow};
use crate::Errno;
use std::time::Duration;

/// Longer than a host's clock steps: what is looked up after it stays known.
const SETTLED: Duration = Duration::from_millis(70);

fn mounted(file_system: Arc<dyn FileSystem>) -> (MountTable, Path) {
    let table = MountTable::new();
    let new = NewMount { file_system, root: None, source: Vec::new(), options: String::new(), flags: MountFlags::empty() };
    let root = table.set_root(new);
    (table, root)
}

fn overlay_over(host: &HostDirectory) -> (MountTable, Path) {
    let services = services();
    let lower = host.tree(&services, Access::ReadOnly);
    mounted(Overlay::new(services.new_device(), lower, services.tmpfs(0, 0o755, "tmpfs")).unwrap())
}

fn content(table: &MountTable, root: &Path, name: &str) -> Result<Vec<u8>> {
    resolve_from_root(table, root, name.as_bytes(), Follow::Yes).map(|place| read(place.inode()))
}

#[test]
fn what_the_host_changes_is_seen_at_once() {
    let host = HostDirectory::new("changes");
    let file = host.path().join("d/f");
    std::fs::create_dir(host.path().join("d")).unwrap();
    for (table, root) in [mounted(host.tree(&services(), Access::ReadOnly)), overlay_over(&host)] {
        for round in 0..60 {
            // Also within one step of the clock, again and again.
            if round % 12 == 0 {
                std::thread::sleep(SETTLED);
            }
            assert_eq!(content(&table, &root, "/d/f"), Err(Errno::ENOENT), "round {round}");
            assert_eq!(content(&table, &root, "/d/f"), Err(Errno::ENOENT), "round {round}");
            std::fs::write(&file, format!("{round}")).unwrap();
            for _ in 0..2 {
                assert_eq!(content(&table, &root, "/d/f").unwrap(), format!("{round}").as_bytes());
            }
            if round % 12 == 1 {
                std::thread::sleep(SETTLED);
                content(&table, &root, "/d/f").unwrap();
            }
            std::fs::write(host.path().join("g"), b"other").unwrap();
            std::fs::rename(host.path().join("g"), &file).unwrap();
            assert_eq!(content(&table, &root, "/d/f").unwrap(), b"other");
            std::fs::remove_file(&file).unwrap();
        }
        std::fs::write(&file, b"old").unwrap();
        std::thread::sleep(SETTLED);
        assert_eq!(content(&table, &root, "/d/f").unwrap(), b"old");
        // The directory itself gives its name to another one, and to a link that leads out.
        std::fs::rename(host.path().join("d"), host.path().join("away")).unwrap();
        assert_eq!(content(&table, &root, "/d/f"), Err(Errno::ENOENT));
        std::os::unix::fs::symlink("/etc", host.path().join("d")).unwrap();
        assert_eq!(content(&table, &root, "/d/passwd"), Err(Errno::ENOENT));
        std::fs::remove_file(host.path().join("d")).unwrap();
        std::fs::remove_dir_all(host.path().join("away")).unwrap();
        std::fs::create_dir(host.path().join("d")).unwrap();
    }
}

#[test]
fn a_file_with_several_names_is_found_by_each() {
    let host = HostDirectory::new("names");
    std::fs::write(host.path().join("a"), b"content").unwrap();
    let (table, root) = overlay_over(&host);
    std::thread::sleep(SETTLED);
    assert_eq!(content(&table, &root, "/a").unwrap(), b"content");
    std::fs::create_dir(host.path().join("d")).unwrap();
    std::fs::hard_link(host.path().join("a"), host.path().join("d/b")).unwrap();
    std::thread::sleep(SETTLED);
    for name in ["/a", "/d/b", "/a"] {
        assert_eq!(content(&table, &root, name).unwrap(), b"content");
    }
    assert_eq!(content(&table, &root, "/d/b").unwrap(), b"content");
    std::fs::remove_file(host.path().join("d/b")).unwrap();
    assert_eq!(content(&table, &root, "/a").unwrap(), b"content");
    assert_eq!(content(&table, &root, "/d/b"), Err(Errno::ENOENT));
}

#[test]
fn what_is_kept_is_limited_and_goes_with_the_mount() {
    let host = HostDirectory::new("limited");
    std::fs::create_dir(host.path().join("d")).unwrap();
    for index in 0..100 {
        std::fs::write(host.path().join(format!("d/{index}")), b"").unwrap();
    }
    let (table, root) = overlay_over(&host);
    table.dentries.limit_to(16);
    std::thread::sleep(SETTLED);
    for index in 0..200 {
        let found = resolve_from_root(&table, &root, format!("/d/{index}").as_bytes(), Follow::No);
        assert_eq!(found.is_ok(), index < 100);
    }
    assert_eq!(table.dentries.count(), 16);
    let services = services();
    let file_system = services.tmpfs(0, 0o755, "tmpfs");
    let new = NewMount { file_system, root: None, source: Vec::new(), options: String::new(), flags: MountFlags::empty() };
    let place = resolve_from_root(&table, &root, b"/d", Follow::Yes).unwrap();
    let mount = table.mount_at(&place, new).unwrap();
    make_file(&mount.root.inode, "inside", &vec![1; 100_000]);
    assert_eq!(content(&table, &root, "/d/inside").unwrap().len(), 100_000);
    table.unmount(&mount, false).unwrap();
    drop(mount);
    assert_eq!(content(&table, &root, "/d/inside"), Err(Errno::ENOENT));
    assert_eq!(services.memory_files.used.load(std::sync::atomic::Ordering::Relaxed), 0);
}
