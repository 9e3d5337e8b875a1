use super::*;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::{DirectoryEntry, FileType};
use crate::task::Task;
use crate::testing::{context, kernel, kernel_with, process};
use skerry_control::Limits;

fn read(task: &Arc<Task>, root: &Arc<dyn Inode>, path: &str) -> String {
    let inode = path.split('/').fold(root.clone(), |inode, name| inode.lookup(name.as_bytes()).unwrap());
    let file = OpenFile::new(inode.open(&context(task), StatusFlags::empty()).unwrap(), StatusFlags::empty(), None);
    let mut buffer = vec![0; 4096];
    let count = file.operations.read(&file, &mut buffer, 0).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// Reads every file below; how many there were.
fn read_all(task: &Arc<Task>, directory: &Arc<dyn Inode>) -> usize {
    let file = OpenFile::new(directory.clone().open(&context(task), StatusFlags::empty()).unwrap(), StatusFlags::empty(), None);
    let mut names = Vec::new();
    let mut emit = |entry: &DirectoryEntry| {
        names.push(entry.name.to_vec());
        true
    };
    file.operations.read_directory(0, &mut emit).unwrap();
    let mut count = 0;
    for name in names {
        let inode = directory.lookup(&name).unwrap();
        count += match inode.kind() {
            FileType::Directory => read_all(task, &inode),
            FileType::Regular => {
                let file = inode.open(&context(task), StatusFlags::empty()).unwrap();
                let file = OpenFile::new(file, StatusFlags::empty(), None);
                file.operations.read(&file, &mut [0; 4096], 0).unwrap();
                1
            }
            _ => 0,
        };
    }
    count
}

#[test]
fn limits_are_what_the_control_group_shows() {
    let limits = Limits { memory: Some(512 << 20), cpus: Some(1.5), pids: Some(50), ..Limits::default() };
    let kernel = kernel_with(limits);
    let task = process(&kernel);
    let root = ControlGroupFileSystem::new(Device::new(0, 30)).root();
    assert_eq!(read(&task, &root, "memory.max"), "536870912\n");
    assert_eq!(read(&task, &root, "cpu.max"), "150000 100000\n");
    assert_eq!(read(&task, &root, "pids.max"), "50\n");
    assert_eq!(read(&task, &root, "pids.current"), "1\n");
    assert!(read(&task, &root, "cgroup.procs").lines().any(|line| line == task.tid().to_string()));
    assert!(read_all(&task, &root) > 30);
}

#[test]
fn without_limits_it_says_so() {
    let kernel = kernel();
    let task = process(&kernel);
    let root = ControlGroupFileSystem::new(Device::new(0, 30)).root();
    assert_eq!(read(&task, &root, "memory.max"), "max\n");
    assert_eq!(read(&task, &root, "cpu.max"), "max 100000\n");
}

#[test]
fn cpus_are_those_of_the_sandbox() {
    let kernel = kernel_with(Limits { cpus: Some(1.0), ..Limits::default() });
    let task = process(&kernel);
    let root = SysFileSystem::new(&kernel, Device::new(0, 31)).root();
    assert_eq!(read(&task, &root, "devices/system/cpu/online"), "0\n");
    assert_eq!(read(&task, &root, "devices/system/node/node0/cpumap"), "1\n");
    assert_eq!(read(&task, &root, "kernel/mm/transparent_hugepage/hpage_pmd_size"), "2097152\n");
    assert_eq!(read(&task, &root, "devices/virtual/net/lo/mtu"), "65536\n");
    assert!(read_all(&task, &root) > 100);
    assert_eq!(root.lookup(b"nothing").err(), Some(Errno::ENOENT));
}
