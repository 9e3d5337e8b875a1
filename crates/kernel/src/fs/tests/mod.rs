//! Tests of the file systems and the walk together, without a task.

mod cache;
mod host;
mod overlay;
mod tmpfs;
mod walk;

use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::host::{Access, IdMap};
use crate::fs::inode::{Inode, NewNode, NewNodeKind};
use crate::fs::tmpfs::Quota;
use crate::fs::Services;
use crate::Result;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory of the host that goes away with the value.
pub struct HostDirectory(PathBuf);

impl HostDirectory {
    pub fn new(name: &str) -> HostDirectory {
        let path = std::env::temp_dir().join(format!("skerry-fs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        HostDirectory(path)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub fn tree(&self, services: &Services, access: Access) -> Arc<crate::fs::host::HostTree> {
        services.host_tree(self.0.as_os_str().as_encoded_bytes(), access, IdMap::default()).unwrap()
    }
}

impl Drop for HostDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn services() -> Arc<Services> {
    Services::new(Arc::new(Quota::default())).unwrap()
}

pub fn node(kind: NewNodeKind, permissions: u32) -> NewNode {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    NewNode { kind, permissions, uid, gid }
}

pub fn make_file(directory: &Arc<dyn Inode>, name: &str, content: &[u8]) -> Arc<dyn Inode> {
    let inode = directory.create(name.as_bytes(), node(NewNodeKind::Regular, 0o644)).unwrap();
    write(&inode, content, 0).unwrap();
    inode
}

pub fn make_directory(directory: &Arc<dyn Inode>, name: &str) -> Arc<dyn Inode> {
    directory.create(name.as_bytes(), node(NewNodeKind::Directory, 0o755)).unwrap()
}

pub fn open(inode: &Arc<dyn Inode>, flags: StatusFlags) -> Arc<OpenFile> {
    OpenFile::new(inode.clone().open_data(flags).unwrap(), flags, None)
}

pub fn write(inode: &Arc<dyn Inode>, content: &[u8], offset: u64) -> Result<usize> {
    let file = open(inode, StatusFlags::RDWR);
    file.operations.write(&file, content, offset)
}

pub fn read(inode: &Arc<dyn Inode>) -> Vec<u8> {
    let file = open(inode, StatusFlags::empty());
    let mut content = vec![0; file.operations.size().unwrap() as usize + 10];
    let count = file.operations.read(&file, &mut content, 0).unwrap();
    content.truncate(count);
    content
}

/// All names but "." and "..", read in small pieces, sorted.
pub fn names(directory: &Arc<dyn Inode>) -> Vec<String> {
    let open = directory.clone().open_data(StatusFlags::DIRECTORY).unwrap();
    let mut names = Vec::new();
    let mut cursor = 0;
    loop {
        let mut count = 0;
        open.read_directory(cursor, &mut |entry| {
            if count == 3 {
                return false;
            }
            count += 1;
            cursor = entry.next_cursor;
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        })
        .unwrap();
        if count == 0 {
            break;
        }
    }
    assert!(names.iter().any(|name| name == ".") && names.iter().any(|name| name == ".."));
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}
