//! The figures of one process: /proc/PID/stat, status, statm, io, limits, sched.

use super::host::{self, Usage};
use super::system::visible_cpus;
use super::view::View;
use crate::task::Task;
use crate::Result;
use skerry_abi::signal::SignalSet;
use skerry_platform::host::read_proc_of;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const TICK_NS: u64 = 10_000_000;
const UNLIMITED: u64 = u64::MAX;

/// The name as stat and status show it: control characters and backslashes escaped.
fn escaped_name(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// proc_pid_stat(5).
pub(super) fn stat(view: &View, reader: &Arc<Task>) -> Result<Vec<u8>> {
    let process = &view.process;
    let relations = process.relations.lock();
    let parent = relations.parent.upgrade().map_or(0, |parent| parent.pid());
    let group = relations.group.clone();
    drop(relations);
    let session = &group.session;
    let terminal = session.terminal.lock().clone();
    let (terminal_number, foreground) = match &terminal {
        Some(terminal) => (terminal.device().encode() as i32, terminal.foreground_group_id().unwrap_or(-1)),
        None => (0, -1),
    };
    let host = view.host_stat();
    let field = |number| host.as_ref().map_or(0, |stat| stat.field(number));
    let usage = view.host().map_or(Usage::default(), |host| Usage::of(host.pid));
    let [user, system, children_user, children_system] = view.times_ticks();
    let threads = process.threads.lock().len();
    let rss_limit = process.rlimit(skerry_abi::raw::general::RLIMIT_RSS).current;
    let [pending, _, blocked, ignored, caught] = view.signal_sets();
    let program = process.program.read().clone();
    // Addresses only for who may trace the process (proc(5)).
    let may_look = view.check_access(reader).is_ok();
    let address = |value: u64| if may_look { value } else { 0 };
    let resident_pages = usage.resident;
    let scheduling = view.task.as_ref().map(|task| *task.scheduling.read()).unwrap_or_default();
    let real_time = scheduling.priority;

    let mut text = format!("{} (", view.id()).into_bytes();
    text.extend_from_slice(&escaped_name(&view.name()));
    let mut rest = String::new();
    let _ = writeln!(
        rest,
        ") {state} {parent} {group} {session} {terminal_number} {foreground} {flags} {minor} 0 {major} 0 {user} {system} \
         {children_user} {children_system} {priority} {nice} {threads} 0 {start} {size} {resident_pages} {rss_limit} \
         {code_start} {code_end} {stack} 0 0 {pending} {blocked} {ignored} {caught} 0 0 0 {exit_signal} {processor} \
         {real_time} {policy} 0 0 0 \
         0 0 {brk} {arguments_start} {arguments_end} {environment_start} {environment_end} {exit_code}",
        state = view.state(Some(reader)).0,
        group = group.id,
        session = session.id,
        flags = 0x40_0000,
        minor = field(10),
        major = field(12),
        priority = if real_time > 0 { -1 - real_time } else { 20 + scheduling.nice },
        nice = scheduling.nice,
        policy = scheduling.policy,
        start = process.start_time_ns / TICK_NS,
        size = usage.size.saturating_mul(4096),
        code_start = 0,
        code_end = 0,
        stack = address(program.stack_top),
        pending = pending.0 & 0x7fff_ffff,
        blocked = blocked.0 & 0x7fff_ffff,
        ignored = ignored.0 & 0x7fff_ffff,
        caught = caught.0 & 0x7fff_ffff,
        exit_signal = process.exit_signal.load(Ordering::Relaxed),
        processor = field(39),
        brk = address(program.brk_start),
        arguments_start = address(program.arguments.0),
        arguments_end = address(program.arguments.1),
        environment_start = address(program.environment.0),
        environment_end = address(program.environment.1),
        exit_code = if may_look { process.exit_status.lock().map_or(0, |status| status.wait_status()) } else { 0 },
    );
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

/// proc_pid_statm(5).
pub(super) fn statm(view: &View) -> Result<Vec<u8>> {
    let usage = view.host().map_or(Usage::default(), |host| Usage::of(host.pid));
    Ok(format!("{} {} {} {} 0 {} 0\n", usage.size, usage.resident, usage.shared, usage.text, usage.data).into_bytes())
}

fn signal_set(set: SignalSet) -> String {
    format!("{:016x}", set.0)
}

/// proc_pid_status(5).
pub(super) fn status(view: &View, reader: &Arc<Task>) -> Result<Vec<u8>> {
    let process = &view.process;
    let credentials = view.credentials();
    let relations = process.relations.lock();
    let parent = relations.parent.upgrade().map_or(0, |parent| parent.pid());
    let group = relations.group.clone();
    drop(relations);
    let tracer = view.task.as_ref().and_then(|task| task.ptrace.tracer()).map_or(0, |tracer| tracer.pid());
    let (letter, word) = view.state(Some(reader));

    let mut text = b"Name:\t".to_vec();
    text.extend_from_slice(&escaped_name(&view.name()));
    let mut rest = String::from("\n");
    if let Some(task) = &view.task {
        let _ = writeln!(rest, "Umask:\t{:04o}", task.fs().umask);
    }
    let _ = write!(rest, "State:\t{letter} ({word})\nTgid:\t{}\nNgid:\t0\nPid:\t{}\n", process.pid(), view.id());
    let _ = write!(rest, "PPid:\t{parent}\nTracerPid:\t{tracer}\n");
    let c = &credentials;
    let _ = writeln!(rest, "Uid:\t{}\t{}\t{}\t{}", c.ruid, c.euid, c.suid, c.fsuid);
    let _ = writeln!(rest, "Gid:\t{}\t{}\t{}\t{}", c.rgid, c.egid, c.sgid, c.fsgid);
    let descriptors = view.files().ok().and_then(|files| files.descriptors().last().copied()).unwrap_or(0);
    // Linux's tables grow from 64 by doubling, with 256 the smallest that a shell's children have.
    let _ = writeln!(rest, "FDSize:\t{}", (descriptors as u64 + 1).next_power_of_two().max(64));
    let groups: String = credentials.groups.iter().map(|gid| format!("{gid} ")).collect();
    let _ = writeln!(rest, "Groups:\t{}", if groups.is_empty() { " " } else { &groups });
    let _ = write!(
        rest,
        "NStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\nKthread:\t0\n",
        process.pid(),
        view.id(),
        group.id,
        group.session.id
    );
    if let Some(host) = view.host() {
        memory_lines(&mut rest, host.pid);
    }
    let _ = writeln!(rest, "Threads:\t{}", process.threads.lock().len().max(1));
    let [pending, shared, blocked, ignored, caught] = view.signal_sets();
    let limit = process.rlimit(skerry_abi::raw::general::RLIMIT_SIGPENDING).current;
    let queued = (pending.0.count_ones() + shared.0.count_ones()) as u64;
    let _ = writeln!(rest, "SigQ:\t{queued}/{limit}");
    for (name, set) in [("SigPnd", pending), ("ShdPnd", shared), ("SigBlk", blocked), ("SigIgn", ignored), ("SigCgt", caught)] {
        let _ = writeln!(rest, "{name}:\t{}", signal_set(set));
    }
    let sets = &credentials.capabilities;
    for (name, set) in [
        ("CapInh", sets.inheritable),
        ("CapPrm", sets.permitted),
        ("CapEff", sets.effective),
        ("CapBnd", sets.bounding),
        ("CapAmb", sets.ambient),
    ] {
        let _ = writeln!(rest, "{name}:\t{set:016x}");
    }
    let _ = writeln!(rest, "NoNewPrivs:\t{}", u8::from(credentials.no_new_privs));
    // What the guest itself has set: the sandbox's own filters are not the guest's to see.
    let filters = view.task.as_ref().and_then(|task| task.seccomp.get());
    let (mode, count) = filters.map_or((0, 0), |chain| (chain.mode(), chain.depth()));
    let _ = write!(rest, "Seccomp:\t{mode}\nSeccomp_filters:\t{count}\n");
    let _ = write!(rest, "Speculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled\n");
    let cpus = visible_cpus(&view.kernel);
    let _ = write!(rest, "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\n", cpu_mask(cpus), cpu_list(cpus));
    let _ = write!(rest, "Mems_allowed:\t00000000,00000001\nMems_allowed_list:\t0\n");
    let (voluntary, involuntary) = view.host().map_or((0, 0), |host| host::switches(host.pid));
    let _ = write!(rest, "voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n");
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

fn memory_lines(text: &mut String, host_pid: i32) {
    let usage = Usage::of(host_pid);
    let size_kib = usage.size * 4;
    for (name, value) in host::status_kib(host_pid) {
        let value = match name.as_str() {
            "VmSize" => size_kib,
            // The peak of what is hidden is not known: never below the present size, never above the host's peak.
            "VmPeak" => size_kib.max(value.min(size_kib)),
            "VmData" => value.min(usage.data * 4),
            _ => value,
        };
        let _ = writeln!(text, "{name}:\t{value:>8} kB");
    }
    let _ = write!(text, "CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n");
}

/// CPUs as a hexadecimal mask, in groups of 32 bits (cpuset(7), "Mask format").
pub(crate) fn cpu_mask(cpus: usize) -> String {
    let words = cpus.div_ceil(32).max(1);
    let word = |index: usize| match cpus.saturating_sub(index * 32) {
        32.. => u32::MAX,
        bits => (1u32 << bits) - 1,
    };
    let mut text = format!("{:x}", word(words - 1));
    for index in (0..words - 1).rev() {
        let _ = write!(text, ",{:08x}", word(index));
    }
    text
}

/// CPUs as a list: "0-3" (cpuset(7), "List format").
pub(crate) fn cpu_list(cpus: usize) -> String {
    match cpus {
        0 | 1 => "0".into(),
        _ => format!("0-{}", cpus - 1),
    }
}

/// proc_pid_limits(5).
pub(super) fn limits(view: &View) -> Result<Vec<u8>> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let value = |value: u64| if value == UNLIMITED { "unlimited".to_owned() } else { value.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let limits = *view.process.rlimits.read();
    for ((name, unit), limit) in NAMES.iter().zip(limits) {
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", value(limit.current), value(limit.maximum));
    }
    Ok(text.into_bytes())
}

/// proc_pid_io(5). Reads and writes happen in the guest kernel, which does not count them per process.
pub(super) fn io(_view: &View) -> Result<Vec<u8>> {
    Ok(b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".to_vec())
}

pub(super) fn schedstat(view: &View) -> Result<Vec<u8>> {
    let Some(host) = view.host() else { return Ok(b"0 0 0\n".to_vec()) };
    Ok(read_proc_of(host.pid, "schedstat").unwrap_or_else(|_| b"0 0 0\n".to_vec()))
}

pub(super) fn sched(view: &View) -> Result<Vec<u8>> {
    let [user, system, ..] = view.times_ticks();
    let (voluntary, involuntary) = view.host().map_or((0, 0), |host| host::switches(host.pid));
    let mut text = String::from_utf8_lossy(&view.name()).into_owned();
    let _ = writeln!(text, " ({}, #threads: {})", view.id(), view.process.threads.lock().len());
    text.push_str("-------------------------------------------------------------------\n");
    let scheduling = view.task.as_ref().map(|task| *task.scheduling.read()).unwrap_or_default();
    let run_ms = (user + system) * 10;
    let _ = writeln!(text, "{:<45}:{:>21}", "se.sum_exec_runtime", format!("{run_ms}.000000"));
    let _ = writeln!(text, "{:<45}:{:>21}", "nr_switches", voluntary + involuntary);
    let _ = writeln!(text, "{:<45}:{:>21}", "nr_voluntary_switches", voluntary);
    let _ = writeln!(text, "{:<45}:{:>21}", "nr_involuntary_switches", involuntary);
    let _ = writeln!(text, "{:<45}:{:>21}", "policy", scheduling.policy);
    let _ = writeln!(text, "{:<45}:{:>21}", "prio", 120 + scheduling.nice);
    Ok(text.into_bytes())
}

/// /proc/PID/task/TID/children: the children, by id.
pub(super) fn children(view: &View) -> Result<Vec<u8>> {
    let children: Vec<i32> = view.process.relations.lock().children.iter().map(|child| child.pid()).collect();
    Ok(children.iter().map(|pid| format!("{pid} ")).collect::<String>().into_bytes())
}

/// /proc/PID/mountstats: what there is without network file systems.
pub(super) fn mountstats(view: &View) -> Result<Vec<u8>> {
    let mounts = view.kernel.mounts.mounts_text(&view.task()?.fs().root);
    let mut text = Vec::new();
    for line in mounts.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(source), Some(place), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        text.extend_from_slice(b"device ");
        text.extend_from_slice(source);
        text.extend_from_slice(b" mounted on ");
        text.extend_from_slice(place);
        text.extend_from_slice(b" with fstype ");
        text.extend_from_slice(kind);
        text.push(b'\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_sets_are_written_as_cpuset_says() {
        assert_eq!((cpu_mask(1), cpu_mask(2), cpu_mask(32)), ("1".into(), "3".into(), "ffffffff".into()));
        assert_eq!(cpu_mask(40), "ff,ffffffff");
        assert_eq!((cpu_list(1), cpu_list(8)), ("0".into(), "0-7".into()));
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped_name(b"a\nb\\c"), b"a\\nb\\\\c");
    }
}
