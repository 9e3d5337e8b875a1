//! The files of /proc that are about the whole system.
//!
//! Memory and CPUs are shown as the sandbox's limits make them; what is about hardware that a sandbox has none of is
//! there, and empty.

use super::host::Usage;
use super::status::cpu_list;
use crate::fs::file::StatusFlags;
use crate::fs::inode::FileType;
use crate::fs::pseudo::tree::Tree;
use crate::fs::pseudo::{Attributes, Content, Entry, Node};
use crate::ipc::sysv::tables;
use crate::net::proc_net::{proc_net, NAMES};
use crate::task::Process;
use crate::{Context, Errno, Kernel, Result};
use skerry_platform::host::read_proc;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// File systems that mount(2) knows, as /proc/filesystems lists them.
const FILE_SYSTEMS: &[&str] =
    &["sysfs", "tmpfs", "proc", "cgroup2", "devtmpfs", "devpts", "sockfs", "pipefs", "mqueue", "overlay"];

/// How many CPUs the guest sees.
pub fn visible_cpus(kernel: &Kernel) -> usize {
    crate::task::scheduling::cpu_count(kernel).max(1)
}

/// Adds the files to the tree of /proc.
pub(super) fn add(tree: &mut Tree) {
    tree.add_file("cpuinfo", |kernel| Ok(cpuinfo(kernel)));
    tree.add_file("meminfo", |kernel| Ok(meminfo(kernel)));
    tree.add_file("stat", |kernel| Ok(stat(kernel)));
    tree.add_file("uptime", |kernel| Ok(uptime(kernel)));
    tree.add_file("loadavg", |kernel| Ok(loadavg(kernel)));
    tree.add_file("vmstat", |kernel| Ok(vmstat(kernel)));
    tree.add_file("version", |kernel| Ok(version_line(kernel)));
    tree.add_file("filesystems", |_| {
        Ok(FILE_SYSTEMS.iter().fold(String::new(), |text, name| text + "nodev\t" + name + "\n").into_bytes())
    });
    tree.add_file("swaps", |_| Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec()));
    tree.add_file("partitions", |_| Ok(b"major minor  #blocks  name\n\n".to_vec()));
    tree.add_file("diskstats", |_| Ok(Vec::new()));
    tree.add_file("interrupts", |kernel| Ok(interrupts(kernel)));
    tree.add_file("softirqs", |kernel| Ok(cpu_heading(kernel, 20)));
    tree.add_file("devices", |_| Ok(DEVICES.into()));
    tree.add_file("misc", |_| Ok(Vec::new()));
    tree.add_file("modules", |_| Ok(Vec::new()));
    tree.add_file("consoles", |_| Ok(Vec::new()));
    tree.add_file("crypto", |_| Ok(Vec::new()));
    tree.add_file("buddyinfo", |_| Ok(Vec::new()));
    tree.add_file("zoneinfo", |_| Ok(Vec::new()));
    tree.add_file("locks", |_| Ok(Vec::new()));
    tree.add_file("key-users", |_| Ok(Vec::new()));
    tree.add_file("keys", |_| Ok(Vec::new()));
    tree.add_file("execdomains", |_| Ok(b"0-0\tLinux           \t[kernel]\n".to_vec()));
    tree.add_file("cgroups", |_| Ok(b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n".to_vec()));
    tree.add_text("cmdline", "quiet");
    tree.add_directory("bus").add_directory("driver").add_directory("fs").add_directory("irq");
    tree.add_file("sysvipc/msg", |kernel| Ok((SYSV_MESSAGES.to_owned() + &tables::messages(kernel)).into_bytes()));
    tree.add_file("sysvipc/sem", |kernel| Ok((SYSV_SEMAPHORES.to_owned() + &tables::semaphores(kernel)).into_bytes()));
    tree.add_file("sysvipc/shm", |kernel| Ok((SYSV_MEMORY.to_owned() + &tables::segments(kernel)).into_bytes()));
    tree.add_file("tty/drivers", |_| Ok(TERMINAL_DRIVERS.into()));
    tree.add_file("tty/ldiscs", |_| Ok(b"n_tty       0\n".to_vec()));
    tree.add_directory("tty/driver");
    for resource in ["cpu", "io", "memory"] {
        tree.add_file(&format!("pressure/{resource}"), |_| Ok(PRESSURE.into()));
    }
    tree.add_link("mounts", "self/mounts");
    tree.add_link("net", "self/net");
}

const DEVICES: &str = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n128 ptm\n136 pts\n\nBlock devices:\n";
const TERMINAL_DRIVERS: &str = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n\
    /dev/console         /dev/console    5       1 system:console\n\
    /dev/ptmx            /dev/ptmx       5       2 system\n\
    pty_slave            /dev/pts      136 0-1048575 pty:slave\n\
    pty_master           /dev/ptm      128 0-1048575 pty:master\n";
const PRESSURE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
const SYSV_MESSAGES: &str =
    "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n";
const SYSV_SEMAPHORES: &str = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
const SYSV_MEMORY: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n";

/// Linux's version as uname(2) gives it.
fn version_line(kernel: &Kernel) -> Vec<u8> {
    let _ = kernel;
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let version = system.version().to_string_lossy();
    format!("Linux version {release} (skerry@sandbox) (rustc) {version}\n").into_bytes()
}

/// The host's text with the processors that the guest sees.
fn cpuinfo(kernel: &Kernel) -> Vec<u8> {
    let Ok(text) = read_proc("cpuinfo") else { return Vec::new() };
    let text = String::from_utf8_lossy(&text);
    let cpus = visible_cpus(kernel);
    let mut guest = String::new();
    for (index, block) in text.split("\n\n").filter(|block| !block.trim().is_empty()).take(cpus).enumerate() {
        for line in block.lines() {
            let name = line.split('\t').next().unwrap_or_default().trim_end_matches(':');
            match name {
                "processor" => writeln!(guest, "processor\t: {index}"),
                "siblings" => writeln!(guest, "siblings\t: {cpus}"),
                "cpu cores" => writeln!(guest, "cpu cores\t: {cpus}"),
                "core id" => writeln!(guest, "core id\t\t: {index}"),
                "physical id" => writeln!(guest, "physical id\t: 0"),
                "apicid" => writeln!(guest, "apicid\t\t: {index}"),
                "initial apicid" => writeln!(guest, "initial apicid\t: {index}"),
                _ => writeln!(guest, "{line}"),
            }
            .unwrap_or_default();
        }
        guest.push('\n');
    }
    guest.into_bytes()
}

/// Bytes of memory: the sandbox's total, and what of it is in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryFigures {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    /// Held by in-memory file systems.
    pub files: u64,
    /// Held by processes.
    pub anonymous: u64,
}

/// See [`MemoryFigures`]: from the limit where there is one, else from the host.
pub(crate) fn memory_figures(kernel: &Kernel) -> MemoryFigures {
    let host = host_meminfo();
    let figure = |name: &str| host.iter().find(|(known, _)| known == name).map_or(0, |(_, kib)| kib * 1024);
    let files = kernel.memory_files.used.load(Ordering::Relaxed);
    crate::run::find_infants(kernel);
    let pages: u64 = living_processes(kernel)
        .filter_map(|process| process.host.read().clone())
        .map(|host| {
            let usage = Usage::of(host.pid);
            usage.resident.saturating_sub(usage.shared)
        })
        .sum();
    let anonymous = pages.saturating_mul(4096);
    let host_total = figure("MemTotal");
    match kernel.memory_limit() {
        Some(limit) if host_total == 0 || limit < host_total => {
            let free = limit.saturating_sub(files).saturating_sub(anonymous);
            let available = free.min(figure("MemAvailable"));
            MemoryFigures { total: limit, free: available, available, files, anonymous }
        }
        _ => MemoryFigures { total: host_total, free: figure("MemFree"), available: figure("MemAvailable"), files, anonymous },
    }
}

fn living_processes(kernel: &Kernel) -> impl Iterator<Item = Arc<Process>> {
    kernel.pids.processes().into_iter().filter(|process| !process.is_dead())
}

fn host_meminfo() -> Vec<(String, u64)> {
    let Ok(text) = read_proc("meminfo") else { return Vec::new() };
    let parse = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_ascii_whitespace().next()?.parse().ok()?))
    };
    String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
}

/// proc_meminfo(5).
fn meminfo(kernel: &Kernel) -> Vec<u8> {
    let figures = memory_figures(kernel);
    let kib = |bytes: u64| bytes / 1024;
    let limited = kernel.memory_limit().is_some_and(|limit| limit == figures.total);
    let cached = figures.total.saturating_sub(figures.free).saturating_sub(figures.anonymous);
    let cached = if limited { figures.files } else { cached };
    let rows: [(&str, u64); 39] = [
        ("MemTotal", kib(figures.total)),
        ("MemFree", kib(figures.free)),
        ("MemAvailable", kib(figures.available)),
        ("Buffers", 0),
        ("Cached", kib(cached)),
        ("SwapCached", 0),
        ("Active", kib(figures.anonymous + cached / 2)),
        ("Inactive", kib(cached / 2)),
        ("Active(anon)", kib(figures.anonymous)),
        ("Inactive(anon)", kib(figures.files)),
        ("Active(file)", kib(cached.saturating_sub(figures.files) / 2)),
        ("Inactive(file)", kib(cached.saturating_sub(figures.files) / 2)),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Zswap", 0),
        ("Zswapped", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", kib(figures.anonymous)),
        ("Mapped", 0),
        ("Shmem", kib(figures.files)),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", kib(figures.total)),
        ("Committed_AS", kib(figures.anonymous)),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{:<15} {value:>8} kB", format!("{name}:"));
    }
    text.push_str("AnonHugePages:         0 kB\nShmemHugePages:        0 kB\nShmemPmdMapped:        0 kB\n");
    text.push_str("FileHugePages:         0 kB\nFilePmdMapped:         0 kB\n");
    text.push_str("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n");
    text.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    text.into_bytes()
}

/// CPU time of all guest processes so far, in ticks of 10 ms: (user, system).
fn busy_ticks(kernel: &Kernel) -> (u64, u64) {
    const TICK_NS: u64 = 10_000_000;
    crate::run::find_infants(kernel);
    let mut sum = (0u64, 0u64);
    for process in kernel.pids.processes() {
        let host = process.host.read().clone().map_or((0, 0), |host| host.cpu_time_ns());
        for part in [host, process.earlier_usage().time_ns, process.children_usage().time_ns] {
            sum.0 = sum.0.saturating_add(part.0);
            sum.1 = sum.1.saturating_add(part.1);
        }
    }
    (sum.0 / TICK_NS, sum.1 / TICK_NS)
}

/// proc_stat(5): the sandbox's own CPU time, spread evenly over the CPUs that it sees.
fn stat(kernel: &Kernel) -> Vec<u8> {
    let cpus = visible_cpus(kernel) as u64;
    let elapsed_ticks = (kernel.booted.elapsed().as_millis() / 10) as u64;
    let (user, system) = busy_ticks(kernel);
    let idle = (elapsed_ticks * cpus).saturating_sub(user + system);
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let share = |total: u64| total / cpus + u64::from(cpu < total % cpus);
        let _ = writeln!(text, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", share(user), share(system), share(idle));
    }
    let calls = kernel.system_calls.load(Ordering::Relaxed);
    let running = running_tasks(kernel);
    let booted = crate::fs::pseudo::now().sec - kernel.booted.elapsed().as_secs() as i64;
    let _ = write!(
        text,
        "intr 0\nctxt {calls}\nbtime {booted}\nprocesses {}\nprocs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        kernel.pids.last_id(),
    );
    text.into_bytes()
}

fn running_tasks(kernel: &Kernel) -> usize {
    let is_running = |process: &Arc<Process>| {
        let threads = process.threads.lock();
        threads.iter().filter(|task| !task.in_kernel.load(Ordering::Relaxed)).count()
    };
    living_processes(kernel).map(|process| is_running(&process)).sum::<usize>().max(1)
}

fn uptime(kernel: &Kernel) -> Vec<u8> {
    let hundredths = (kernel.booted.elapsed().as_millis() / 10) as u64;
    let (user, system) = busy_ticks(kernel);
    let idle = (hundredths * visible_cpus(kernel) as u64).saturating_sub(user + system);
    format!("{}.{:02} {}.{:02}\n", hundredths / 100, hundredths % 100, idle / 100, idle % 100).into_bytes()
}

/// The host's load (what `make -l` wants to know), with the sandbox's own tasks.
fn loadavg(kernel: &Kernel) -> Vec<u8> {
    let text = read_proc("loadavg").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let load: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
    let load = if load.len() == 3 { load.join(" ") } else { "0.00 0.00 0.00".into() };
    format!("{load} {}/{} {}\n", running_tasks(kernel), kernel.pids.task_count(), kernel.pids.last_id()).into_bytes()
}

fn vmstat(kernel: &Kernel) -> Vec<u8> {
    let figures = memory_figures(kernel);
    let mut text = String::new();
    for (name, value) in [
        ("nr_free_pages", figures.free / 4096),
        ("nr_anon_pages", figures.anonymous / 4096),
        ("nr_mapped", 0),
        ("nr_file_pages", figures.files / 4096),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", figures.files / 4096),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", 0),
        ("pgmajfault", 0),
        ("oom_kill", 0),
    ] {
        let _ = writeln!(text, "{name} {value}");
    }
    text.into_bytes()
}

fn cpu_heading(kernel: &Kernel, indent: usize) -> Vec<u8> {
    let mut text = " ".repeat(indent);
    for cpu in 0..visible_cpus(kernel) {
        let _ = write!(text, "{:<11}", format!("CPU{cpu}"));
    }
    text.push('\n');
    text.into_bytes()
}

fn interrupts(kernel: &Kernel) -> Vec<u8> {
    let mut text = cpu_heading(kernel, 11);
    text.extend_from_slice(b"ERR:          0\nMIS:          0\n");
    text
}

/// CPUs that are on, as sysfs writes them.
pub(crate) fn online_cpus(kernel: &Kernel) -> String {
    cpu_list(visible_cpus(kernel))
}

/// /proc/PID/net: what the network room knows by name.
pub(super) fn network(kernel: &Arc<Kernel>) -> Result<Arc<dyn Node>> {
    Ok(Arc::new(NetworkDirectory { kernel: Arc::downgrade(kernel) }))
}

/// Numbers of the files, the same whoever looks.
const FIRST_NETWORK_INODE: u64 = 4026531900;

struct NetworkDirectory {
    kernel: Weak<Kernel>,
}

impl NetworkDirectory {
    fn file(&self, index: usize) -> NetworkFile {
        NetworkFile { kernel: self.kernel.clone(), index }
    }
}

impl Node for NetworkDirectory {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::new(FIRST_NETWORK_INODE - 1, FileType::Directory, 0o555))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        let index = NAMES.iter().position(|known| known.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let file = self.file(index);
        file.text()?;
        Ok(Arc::new(file))
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let present = (0..NAMES.len()).filter(|&index| self.file(index).text().is_ok());
        let entry = |index: usize| Entry {
            name: NAMES[index].into(),
            inode: FIRST_NETWORK_INODE + index as u64,
            kind: FileType::Regular,
        };
        Ok(present.map(entry).collect())
    }
}

#[derive(Clone)]
struct NetworkFile {
    kernel: Weak<Kernel>,
    index: usize,
}

impl NetworkFile {
    /// ENOENT where the network has no such text.
    fn text(&self) -> Result<Vec<u8>> {
        let kernel = self.kernel.upgrade().ok_or(Errno::ENOENT)?;
        let name = NAMES.get(self.index).ok_or(Errno::ENOENT)?;
        proc_net(&kernel.net, name).map(String::into_bytes).ok_or(Errno::ENOENT)
    }
}

impl Node for NetworkFile {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::new(FIRST_NETWORK_INODE + self.index as u64, FileType::Regular, 0o444))
    }

    fn open(&self, _context: &Context, flags: StatusFlags) -> Result<Box<dyn Content>> {
        if flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR) {
            return Err(Errno::EACCES);
        }
        let file = self.clone();
        Ok(Box::new(move || file.text()))
    }
}
