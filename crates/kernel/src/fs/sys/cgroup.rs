//! The control group of the sandbox, as the second version's file system shows it (cgroups(7)).
//!
//! There is one group, the root that a container sees: limits are the sandbox's and cannot be changed from inside.

use crate::fs::inode::{Device, FileSystem, Inode};
use crate::fs::proc::{memory_figures, online_cpus};
use crate::fs::pseudo::tree::Tree;
use crate::fs::pseudo::{empty_statistics, Node, PseudoInode};
use crate::{Kernel, Result};
use skerry_abi::structs::StatFs;
use std::fmt::Write;
use std::sync::{Arc, Weak};

const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
/// cpu.max's period, in microseconds.
const PERIOD_US: u64 = 100_000;

/// cgroup2, as one sandbox sees it.
pub struct ControlGroupFileSystem {
    device: Device,
    root: Arc<dyn Node>,
    this: Weak<ControlGroupFileSystem>,
}

impl ControlGroupFileSystem {
    pub fn new(device: Device) -> Arc<ControlGroupFileSystem> {
        let mut tree = Tree::directory();
        add(&mut tree);
        let mut next_inode = 1;
        let root = tree.build(&mut next_inode);
        Arc::new_cyclic(|this| ControlGroupFileSystem { device, root, this: this.clone() })
    }
}

impl FileSystem for ControlGroupFileSystem {
    fn root(&self) -> Arc<dyn Inode> {
        match self.this.upgrade() {
            Some(this) => PseudoInode::new(self.root.clone(), this),
            None => unreachable!("a file system outlives its users"),
        }
    }

    fn statistics(&self) -> Result<StatFs> {
        Ok(empty_statistics(CGROUP2_SUPER_MAGIC))
    }

    fn type_name(&self) -> &'static str {
        "cgroup2"
    }

    fn device(&self) -> Device {
        self.device
    }
}

fn line(value: impl std::fmt::Display) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// A limit as cgroup files write it.
fn maximum(limit: Option<u64>) -> Vec<u8> {
    limit.map_or_else(|| b"max\n".to_vec(), line)
}

fn memory_current(kernel: &Kernel) -> u64 {
    let figures = memory_figures(kernel);
    figures.anonymous.saturating_add(figures.files)
}

fn add(tree: &mut Tree) {
    tree.add_text("cgroup.controllers", "cpuset cpu memory pids");
    tree.add_text("cgroup.type", "domain");
    tree.add_text("cgroup.events", "populated 1\nfrozen 0");
    tree.add_text("cgroup.freeze", "0");
    tree.add_text("cgroup.max.depth", "max");
    tree.add_text("cgroup.max.descendants", "max");
    tree.add_text("cgroup.stat", "nr_descendants 0\nnr_dying_descendants 0");
    tree.add_file("cgroup.subtree_control", |_| Ok(b"\n".to_vec()));
    tree.add_file("cgroup.procs", |kernel| {
        let living = kernel.pids.processes().into_iter().filter(|process| !process.is_dead());
        Ok(living.fold(String::new(), |text, process| format!("{text}{}\n", process.pid())).into_bytes())
    });
    tree.add_file("cgroup.threads", |kernel| {
        let mut text = String::new();
        for process in kernel.pids.processes() {
            let threads: Vec<i32> = process.threads.lock().iter().map(|task| task.tid()).collect();
            for tid in threads {
                let _ = writeln!(text, "{tid}");
            }
        }
        Ok(text.into_bytes())
    });

    tree.add_file("memory.max", |kernel| Ok(maximum(kernel.memory_limit())));
    tree.add_file("memory.high", |_| Ok(maximum(None)));
    tree.add_text("memory.low", "0").add_text("memory.min", "0");
    tree.add_file("memory.current", |kernel| Ok(line(memory_current(kernel))));
    tree.add_file("memory.peak", |kernel| Ok(line(memory_current(kernel))));
    tree.add_file("memory.swap.max", |_| Ok(line(0)));
    tree.add_text("memory.swap.current", "0").add_text("memory.oom.group", "0");
    tree.add_text("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0");
    tree.add_file("memory.stat", |kernel| {
        let figures = memory_figures(kernel);
        Ok(format!(
            "anon {}\nfile {}\nkernel 0\nkernel_stack 0\npagetables 0\nshmem {}\nfile_mapped 0\nfile_dirty 0\n\
             file_writeback 0\nswapcached 0\nanon_thp 0\ninactive_anon {}\nactive_anon {}\ninactive_file 0\nactive_file 0\n\
             unevictable 0\nslab_reclaimable 0\nslab_unreclaimable 0\nslab 0\npgfault 0\npgmajfault 0\n",
            figures.anonymous, figures.files, figures.files, figures.files, figures.anonymous
        )
        .into_bytes())
    });

    tree.add_file("cpu.max", |kernel| {
        let quota = kernel.limits.cpus.filter(|cpus| cpus.is_finite() && *cpus > 0.0);
        Ok(match quota {
            Some(cpus) => format!("{} {PERIOD_US}\n", (cpus * PERIOD_US as f64) as u64).into_bytes(),
            None => format!("max {PERIOD_US}\n").into_bytes(),
        })
    });
    tree.add_text("cpu.weight", "100").add_text("cpu.weight.nice", "0").add_text("cpu.idle", "0");
    tree.add_text("cpu.max.burst", "0");
    tree.add_file("cpu.stat", |kernel| {
        crate::run::find_infants(kernel);
        let (mut user, mut system) = (0u64, 0u64);
        for process in kernel.pids.processes() {
            let own = process.host.read().clone().map_or((0, 0), |host| host.cpu_time_ns());
            user = user.saturating_add(own.0);
            system = system.saturating_add(own.1);
        }
        let (user, system) = (user / 1000, system / 1000);
        Ok(format!(
            "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            user + system
        )
        .into_bytes())
    });
    tree.add_file("cpuset.cpus", |kernel| Ok(line(online_cpus(kernel))));
    tree.add_file("cpuset.cpus.effective", |kernel| Ok(line(online_cpus(kernel))));
    tree.add_text("cpuset.mems", "0").add_text("cpuset.mems.effective", "0");
    tree.add_text("cpuset.cpus.partition", "member");

    tree.add_file("pids.max", |kernel| Ok(maximum(kernel.limits.pids.map(u64::from))));
    tree.add_file("pids.current", |kernel| Ok(line(kernel.pids.task_count())));
    tree.add_file("pids.peak", |kernel| Ok(line(kernel.pids.task_count())));
    tree.add_text("pids.events", "max 0");
    tree.add_file("io.stat", |_| Ok(Vec::new()));
    for resource in ["cpu", "io", "memory"] {
        tree.add_text(
            &format!("{resource}.pressure"),
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0",
        );
    }
}
