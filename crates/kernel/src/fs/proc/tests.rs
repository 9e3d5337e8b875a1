use super::*;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::DirectoryEntry;
use crate::task::{Credentials, Task};
use crate::testing::{context, kernel, kernel_with, process, process_of};
use skerry_control::Limits;

fn proc(kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
    ProcFileSystem::new(kernel, Device::new(0, 21)).root()
}

fn find(root: &Arc<dyn Inode>, path: &str) -> Result<Arc<dyn Inode>> {
    path.split('/').try_fold(root.clone(), |inode, name| inode.lookup(name.as_bytes()))
}

fn open(task: &Arc<Task>, inode: Arc<dyn Inode>, flags: StatusFlags) -> Result<Arc<OpenFile>> {
    Ok(OpenFile::new(inode.open(&context(task), flags)?, flags, None))
}

fn read_at(file: &Arc<OpenFile>, offset: u64) -> String {
    let mut buffer = vec![0; 1 << 16];
    let count = file.operations.read(file, &mut buffer, offset).unwrap();
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

fn read(task: &Arc<Task>, path: &str) -> Result<String> {
    let inode = find(&proc(task.kernel()), path)?;
    Ok(read_at(&open(task, inode, StatusFlags::empty())?, 0))
}

fn write(task: &Arc<Task>, path: &str, text: &str) -> Result<usize> {
    let inode = find(&proc(task.kernel()), path)?;
    let file = open(task, inode, StatusFlags::WRONLY)?;
    file.operations.write(&file, text.as_bytes(), 0)
}

fn names(task: &Arc<Task>, inode: Arc<dyn Inode>) -> Vec<String> {
    let file = open(task, inode, StatusFlags::empty()).unwrap();
    let mut names = Vec::new();
    let mut emit = |entry: &DirectoryEntry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        true
    };
    file.operations.read_directory(0, &mut emit).unwrap();
    names
}

#[test]
fn self_is_who_reads() {
    let kernel = kernel();
    let (one, two) = (process(&kernel), process(&kernel));
    let link = proc(&kernel).lookup(b"self").unwrap();
    assert_eq!(link.read_link_for(&one).unwrap(), one.tid().to_string().into_bytes());
    assert_eq!(link.read_link_for(&two).unwrap(), two.tid().to_string().into_bytes());
    assert_eq!(link.read_link(), Err(Errno::ENOENT));
    let thread = proc(&kernel).lookup(b"thread-self").unwrap();
    assert_eq!(thread.read_link_for(&one).unwrap(), format!("{0}/task/{0}", one.tid()).into_bytes());
}

#[test]
fn processes_are_listed_and_found_by_plain_numbers_only() {
    let kernel = kernel();
    let task = process(&kernel);
    let pid = task.tid();
    assert!(names(&task, proc(&kernel)).contains(&pid.to_string()));
    for name in [format!("0{pid}"), format!("+{pid}"), "99999".into(), "-1".into(), format!("{pid}x"), String::new()] {
        assert_eq!(proc(&kernel).lookup(name.as_bytes()).err(), Some(Errno::ENOENT), "{name}");
    }
    assert_eq!(find(&proc(&kernel), &format!("{pid}/task/{pid}/task")).err(), Some(Errno::ENOENT));
}

#[test]
fn every_file_of_a_process_can_be_read_or_gives_a_plain_error() {
    let kernel = kernel();
    let task = process(&kernel);
    for directory in [format!("{}", task.tid()), format!("{0}/task/{0}", task.tid())] {
        let inode = find(&proc(&kernel), &directory).unwrap();
        for name in names(&task, inode.clone()) {
            let file = inode.lookup(name.as_bytes()).unwrap();
            file.metadata().unwrap();
            if file.kind() != FileType::Regular {
                continue;
            }
            let Ok(file) = open(&task, file, StatusFlags::empty()) else { continue };
            let _ = file.operations.read(&file, &mut [0; 4096], 0);
        }
    }
}

#[test]
fn every_file_of_the_system_can_be_read() {
    fn walk(task: &Arc<Task>, inode: &Arc<dyn Inode>, path: &str, count: &mut usize) {
        for name in names(task, inode.clone()) {
            if path.is_empty() && (parse_id(name.as_bytes()).is_some() || name.ends_with("self")) {
                continue;
            }
            let child = inode.lookup(name.as_bytes()).unwrap();
            match child.kind() {
                FileType::Directory => walk(task, &child, &format!("{path}/{name}"), count),
                FileType::Regular => {
                    let file = open(task, child, StatusFlags::empty()).unwrap();
                    file.operations.read(&file, &mut [0; 4096], 0).unwrap_or_else(|errno| panic!("{path}/{name}: {errno}"));
                    *count += 1;
                }
                _ => {}
            }
        }
    }
    let kernel = kernel();
    let task = process(&kernel);
    let mut count = 0;
    walk(&task, &proc(&kernel), "", &mut count);
    assert!(count > 150, "{count}");
}

#[test]
fn stat_has_all_fields_and_status_the_ids() {
    let kernel = kernel();
    let task = process_of(&kernel, Credentials::new(1000, 100, vec![4, 24]));
    *task.name.write() = b"a) b".to_vec();
    let pid = task.tid();
    let stat = read(&task, &format!("{pid}/stat")).unwrap();
    assert!(stat.starts_with(&format!("{pid} (a) b) R 1 {pid} {pid} 0 -1 ")), "{stat}");
    assert_eq!(stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().count(), 50);
    let status = read(&task, &format!("{pid}/status")).unwrap();
    for line in ["Name:\ta) b\n", "State:\tR (running)\n", "Uid:\t1000\t1000\t1000\t1000\n", "Groups:\t4 24 \n", "PPid:\t1\n"] {
        assert!(status.contains(line), "{line:?} in {status}");
    }
}

#[test]
fn others_processes_are_closed_to_the_unprivileged() {
    let kernel = kernel();
    let root = process(&kernel);
    let user = process_of(&kernel, Credentials::new(1000, 1000, Vec::new()));
    let environ = format!("{}/environ", root.tid());
    assert_eq!(read(&user, &environ).err(), Some(Errno::EACCES));
    assert_eq!(read(&user, &format!("{}/mem", root.tid())).err(), Some(Errno::EACCES));
    assert!(read(&root, &environ).is_ok());
    assert!(read(&user, &format!("{}/environ", user.tid())).is_ok());
    assert!(read(&root, &format!("{}/environ", user.tid())).is_ok());
    let exe = find(&proc(&kernel), &format!("{}/cwd", root.tid())).unwrap();
    assert_eq!(exe.read_link_for(&user), Err(Errno::EACCES));
    assert_eq!(read(&root, &format!("{}/pagemap", root.tid())).err(), Some(Errno::EPERM));
}

#[test]
fn settings_of_a_process() {
    let kernel = kernel();
    let task = process(&kernel);
    let other = process(&kernel);
    let file = |name: &str| format!("{}/{name}", task.tid());
    assert_eq!(write(&task, &file("comm"), "a name that is too long\n"), Ok(24));
    assert_eq!(read(&task, &file("comm")).as_deref(), Ok("a name that is \n"));
    assert_eq!(write(&other, &file("comm"), "x"), Err(Errno::EINVAL));
    assert_eq!(write(&task, &file("oom_score_adj"), "-500\n"), Ok(5));
    assert_eq!(read(&task, &file("oom_score_adj")).as_deref(), Ok("-500\n"));
    assert_eq!(write(&task, &file("oom_score_adj"), "1001"), Err(Errno::EINVAL));
    let user = process_of(&kernel, Credentials::new(1000, 1000, Vec::new()));
    assert_eq!(write(&user, &format!("{}/oom_score_adj", user.tid()), "-1"), Err(Errno::EACCES));
    assert_eq!(write(&task, &file("stat"), "x").err(), Some(Errno::EACCES));
}

#[test]
fn settings_of_the_system_are_kept_and_checked() {
    let kernel = kernel();
    let task = process(&kernel);
    assert_eq!(read(&task, "sys/vm/swappiness").as_deref(), Ok("60\n"));
    assert_eq!(write(&task, "sys/vm/swappiness", "10\n"), Ok(3));
    assert_eq!(read(&task, "sys/vm/swappiness").as_deref(), Ok("10\n"));
    assert_eq!(write(&task, "sys/vm/swappiness", "1000"), Err(Errno::EINVAL));
    assert_eq!(write(&task, "sys/kernel/ostype", "Minix"), Err(Errno::EACCES));
    assert_eq!(write(&task, "sys/kernel/hostname", "island\n"), Ok(7));
    assert_eq!(*kernel.hostname.read(), b"island");
    assert_eq!(read(&task, "sys/kernel/random/boot_id"), read(&task, "sys/kernel/random/boot_id"));
}

#[test]
fn a_file_that_is_kept_open_shows_new_figures_when_it_is_read_from_the_start() {
    let kernel = kernel();
    let task = process(&kernel);
    let file = open(&task, find(&proc(&kernel), "sys/kernel/hostname").unwrap(), StatusFlags::empty()).unwrap();
    assert_eq!(read_at(&file, 0), "test\n");
    *kernel.hostname.write() = b"other".to_vec();
    assert_eq!(read_at(&file, 2), "st\n");
    assert_eq!(read_at(&file, 0), "other\n");
}

#[test]
fn limits_of_the_sandbox_are_seen() {
    let limits = Limits { memory: Some(64 << 20), cpus: Some(1.0), pids: Some(7), ..Limits::default() };
    let kernel = kernel_with(limits);
    let task = process(&kernel);
    assert!(read(&task, "meminfo").unwrap().starts_with("MemTotal:          65536 kB\n"));
    assert_eq!(read(&task, "cpuinfo").unwrap().matches("processor\t:").count(), 1);
    assert_eq!(read(&task, "stat").unwrap().matches("\ncpu").count(), 1);
    assert_eq!(read(&task, "sys/kernel/threads-max").as_deref(), Ok("7\n"));
}

#[test]
fn descriptors_are_links() {
    let kernel = kernel();
    let task = process(&kernel);
    let null = std::fs::File::open("/dev/null").unwrap();
    let file = crate::fs::host_file::HostFile::open(null.into(), None, &kernel.reactor).unwrap();
    task.files().install(file, 0, true, 10).unwrap();
    let fd = find(&proc(&kernel), &format!("{}/fd", task.tid())).unwrap();
    assert_eq!(names(&task, fd.clone()), ["0"]);
    let link = fd.lookup(b"0").unwrap();
    assert_eq!(link.metadata().unwrap().permissions, 0o500);
    assert_eq!(link.read_link_for(&task).unwrap(), b"/dev/null");
    assert_eq!(fd.lookup(b"1").err(), Some(Errno::ENOENT));
    assert_eq!(fd.lookup(b"00").err(), Some(Errno::ENOENT));
    let information = read(&task, &format!("{}/fdinfo/0", task.tid())).unwrap();
    assert!(information.starts_with("pos:\t0\nflags:\t02000000\n"), "{information}");
    // Opened by this name it is the same device.
    let path = link.follow_magic().unwrap().unwrap();
    let again = path.inode().clone().open(&context(&task), StatusFlags::empty()).unwrap();
    assert_eq!(again.metadata().unwrap().represents, Device::new(1, 3));
    assert_eq!(path.inode().clone().open(&context(&task), StatusFlags::WRONLY).err(), Some(Errno::EACCES));
}
