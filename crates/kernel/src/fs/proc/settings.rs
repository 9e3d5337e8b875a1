//! /proc/sys (proc_sys(5)): names, limits and switches.
//!
//! Settings that the guest kernel has no use for can be read, and written by root, as on Linux: [`Settings`] keeps what
//! was written. Those that describe the guest kernel itself are made from it.

use super::process::parse_number;
use crate::fs::pseudo::tree::Tree;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The highest process id (task::PidTable).
const PID_MAX: i32 = 32768;

/// Values that were written, by path below /proc/sys. Only paths of the table get in: the map is bounded by it.
#[derive(Default)]
pub(crate) struct Settings {
    values: Mutex<BTreeMap<&'static str, String>>,
    boot_id: OnceLock<String>,
}

impl Settings {
    fn get(&self, path: &'static str, default: &str) -> String {
        self.values.lock().get(path).cloned().unwrap_or_else(|| default.to_owned())
    }

    /// A number of the table, as it is set now; 0 for what is not in it.
    pub(crate) fn number(&self, path: &str) -> i64 {
        let written = self.values.lock().get(path).and_then(|text| text.parse().ok());
        let default = || NUMBERS.iter().find(|(name, ..)| *name == path).map_or(0, |(_, default, ..)| *default);
        written.unwrap_or_else(default)
    }

    /// Takes a number that is used once: it has its default again afterwards.
    pub(crate) fn take_number(&self, path: &str) -> i64 {
        let number = self.number(path);
        self.values.lock().remove(path);
        number
    }
}

/// Numbers that can be read, and written by root between the bounds: path, default, lowest, highest.
static NUMBERS: &[(&str, i64, i64, i64)] = &[
    ("fs/aio-max-nr", 65536, 0, i64::MAX),
    ("fs/dir-notify-enable", 1, 0, 1),
    ("fs/epoll/max_user_watches", 5_056_716, 0, i64::MAX),
    ("fs/inotify/max_queued_events", 16384, 0, i32::MAX as i64),
    ("fs/inotify/max_user_instances", 128, 0, i32::MAX as i64),
    ("fs/inotify/max_user_watches", 65536, 0, i32::MAX as i64),
    ("fs/lease-break-time", 45, 0, i32::MAX as i64),
    ("fs/leases-enable", 1, 0, 1),
    ("fs/mount-max", 4096, 1, 100_000),
    ("fs/mqueue/msg_default", 10, 1, 65536),
    ("fs/mqueue/msg_max", 10, 1, 65536),
    ("fs/mqueue/msgsize_default", 8192, 128, 16_777_216),
    ("fs/mqueue/msgsize_max", 8192, 128, 16_777_216),
    ("fs/mqueue/queues_max", 256, 0, 65536),
    ("fs/nr_open", 1_048_576, 64, 2_147_483_584),
    ("fs/overflowgid", 65534, 0, 65535),
    ("fs/overflowuid", 65534, 0, 65535),
    ("fs/pipe-max-size", 1_048_576, 4096, 1 << 31),
    ("fs/pipe-user-pages-hard", 0, 0, i64::MAX),
    ("fs/pipe-user-pages-soft", 16384, 0, i64::MAX),
    ("fs/protected_fifos", 0, 0, 2),
    ("fs/protected_hardlinks", 0, 0, 1),
    ("fs/protected_regular", 0, 0, 2),
    ("fs/protected_symlinks", 0, 0, 1),
    ("fs/suid_dumpable", 0, 0, 2),
    ("kernel/core_uses_pid", 1, 0, 1),
    ("kernel/dmesg_restrict", 1, 0, 1),
    ("kernel/keys/maxbytes", 20000, 0, i32::MAX as i64),
    ("kernel/keys/maxkeys", 200, 0, i32::MAX as i64),
    ("kernel/kptr_restrict", 1, 0, 2),
    ("kernel/msgmax", 8192, 0, i32::MAX as i64),
    ("kernel/msgmnb", 16384, 0, i32::MAX as i64),
    ("kernel/msgmni", 32000, 0, 32768),
    ("kernel/msg_next_id", -1, 0, i32::MAX as i64),
    ("kernel/panic", 0, i32::MIN as i64, i32::MAX as i64),
    ("kernel/panic_on_oops", 0, 0, 1),
    ("kernel/perf_event_paranoid", 4, -1, 4),
    ("kernel/pty/max", 4096, 0, i32::MAX as i64),
    ("kernel/pty/reserve", 1024, 0, i32::MAX as i64),
    ("kernel/randomize_va_space", 2, 0, 2),
    ("kernel/sched_autogroup_enabled", 0, 0, 1),
    ("kernel/sched_rr_timeslice_ms", 100, 0, i32::MAX as i64),
    ("kernel/sched_rt_period_us", 1_000_000, 1, i32::MAX as i64),
    ("kernel/sched_rt_runtime_us", 950_000, -1, i32::MAX as i64),
    ("kernel/shm_rmid_forced", 0, 0, 1),
    ("kernel/sem_next_id", -1, 0, i32::MAX as i64),
    ("kernel/shm_next_id", -1, 0, i32::MAX as i64),
    ("kernel/shmmni", 4096, 0, 32768),
    ("kernel/sysrq", 0, 0, 511),
    ("kernel/tainted", 0, 0, i64::MAX),
    ("kernel/timer_migration", 1, 0, 1),
    ("kernel/unprivileged_bpf_disabled", 2, 0, 2),
    ("net/core/netdev_max_backlog", 1000, 0, i32::MAX as i64),
    ("net/core/optmem_max", 131_072, 0, i32::MAX as i64),
    ("net/core/rmem_default", 212_992, 2304, i32::MAX as i64),
    ("net/core/rmem_max", 212_992, 2304, i32::MAX as i64),
    ("net/core/somaxconn", 4096, 0, i32::MAX as i64),
    ("net/core/wmem_default", 212_992, 4608, i32::MAX as i64),
    ("net/core/wmem_max", 212_992, 4608, i32::MAX as i64),
    ("net/ipv4/conf/all/forwarding", 0, 0, 1),
    ("net/ipv4/conf/all/rp_filter", 0, 0, 2),
    ("net/ipv4/conf/default/forwarding", 0, 0, 1),
    ("net/ipv4/conf/default/rp_filter", 0, 0, 2),
    ("net/ipv4/conf/lo/forwarding", 0, 0, 1),
    ("net/ipv4/conf/lo/rp_filter", 0, 0, 2),
    ("net/ipv4/conf/lo/tag", 0, 0, i32::MAX as i64),
    ("net/ipv4/icmp_echo_ignore_all", 0, 0, 1),
    ("net/ipv4/ip_default_ttl", 64, 1, 255),
    ("net/ipv4/ip_forward", 0, 0, 1),
    ("net/ipv4/ip_nonlocal_bind", 0, 0, 1),
    ("net/ipv4/ip_unprivileged_port_start", 1024, 0, 65535),
    ("net/ipv4/tcp_abort_on_overflow", 0, 0, 1),
    ("net/ipv4/tcp_fastopen", 1, 0, i32::MAX as i64),
    ("net/ipv4/tcp_fin_timeout", 60, 0, i32::MAX as i64),
    ("net/ipv4/tcp_keepalive_intvl", 75, 0, i32::MAX as i64),
    ("net/ipv4/tcp_keepalive_probes", 9, 0, 255),
    ("net/ipv4/tcp_keepalive_time", 7200, 0, i32::MAX as i64),
    ("net/ipv4/tcp_max_syn_backlog", 2048, 0, i32::MAX as i64),
    ("net/ipv4/tcp_max_tw_buckets", 131_072, 0, i32::MAX as i64),
    ("net/ipv4/tcp_moderate_rcvbuf", 1, 0, 1),
    ("net/ipv4/tcp_retries1", 3, 0, 255),
    ("net/ipv4/tcp_retries2", 15, 0, i32::MAX as i64),
    ("net/ipv4/tcp_sack", 1, 0, 1),
    ("net/ipv4/tcp_slow_start_after_idle", 1, 0, 1),
    ("net/ipv4/tcp_syn_retries", 6, 1, 127),
    ("net/ipv4/tcp_synack_retries", 5, 0, 255),
    ("net/ipv4/tcp_syncookies", 1, 0, 2),
    ("net/ipv4/tcp_timestamps", 1, 0, 2),
    ("net/ipv4/tcp_tw_reuse", 2, 0, 2),
    ("net/ipv4/tcp_window_scaling", 1, 0, 1),
    ("net/ipv6/bindv6only", 0, 0, 1),
    ("net/ipv6/conf/all/disable_ipv6", 0, 0, 1),
    ("net/ipv6/conf/all/forwarding", 0, 0, 1),
    ("net/ipv6/conf/default/disable_ipv6", 0, 0, 1),
    ("net/ipv6/conf/default/forwarding", 0, 0, 1),
    ("net/ipv6/conf/lo/disable_ipv6", 0, 0, 1),
    ("net/unix/max_dgram_qlen", 512, 0, i32::MAX as i64),
    ("user/max_cgroup_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_ipc_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_mnt_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_net_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_pid_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_time_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_user_namespaces", 0, 0, i32::MAX as i64),
    ("user/max_uts_namespaces", 0, 0, i32::MAX as i64),
    ("vm/admin_reserve_kbytes", 8192, 0, i64::MAX),
    ("vm/dirty_background_bytes", 0, 0, i64::MAX),
    ("vm/dirty_background_ratio", 10, 0, 100),
    ("vm/dirty_bytes", 0, 0, i64::MAX),
    ("vm/dirty_expire_centisecs", 3000, 0, i32::MAX as i64),
    ("vm/dirty_ratio", 20, 0, 100),
    ("vm/dirty_writeback_centisecs", 500, 0, i32::MAX as i64),
    ("vm/max_map_count", 65530, 0, i32::MAX as i64),
    ("vm/memfd_noexec", 0, 0, 2),
    ("vm/min_free_kbytes", 16384, 0, i64::MAX),
    ("vm/mmap_min_addr", 65536, 0, i64::MAX),
    ("vm/mmap_rnd_bits", 28, 28, 32),
    ("vm/nr_hugepages", 0, 0, 0),
    ("vm/nr_overcommit_hugepages", 0, 0, 0),
    ("vm/oom_dump_tasks", 1, 0, 1),
    ("vm/oom_kill_allocating_task", 0, 0, 1),
    ("vm/overcommit_kbytes", 0, 0, i64::MAX),
    ("vm/overcommit_memory", 0, 0, 2),
    ("vm/overcommit_ratio", 50, 0, i32::MAX as i64),
    ("vm/page-cluster", 3, 0, 31),
    ("vm/panic_on_oom", 0, 0, 2),
    ("vm/swappiness", 60, 0, 200),
    ("vm/unprivileged_userfaultfd", 0, 0, 1),
    ("vm/user_reserve_kbytes", 131_072, 0, i64::MAX),
    ("vm/vfs_cache_pressure", 100, 0, i32::MAX as i64),
    ("vm/zone_reclaim_mode", 0, 0, 7),
];

/// Texts that can be read, and written by root.
static TEXTS: &[(&str, &str)] = &[
    ("kernel/core_pattern", "core"),
    ("kernel/modprobe", ""),
    ("kernel/printk", "4\t4\t1\t7"),
    ("kernel/sem", "32000\t1048576\t500\t32000"),
    ("kernel/shmall", "18446744073692774399"),
    ("kernel/shmmax", "18446744073692774399"),
    ("net/core/default_qdisc", "pfifo_fast"),
    ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ("net/ipv4/ip_local_reserved_ports", ""),
    ("net/ipv4/ping_group_range", "1\t0"),
    ("net/ipv4/tcp_allowed_congestion_control", "reno cubic"),
    ("net/ipv4/tcp_congestion_control", "cubic"),
    ("net/ipv4/tcp_mem", "289257\t385678\t578514"),
    ("net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
    ("net/ipv4/udp_mem", "578517\t771357\t1157034"),
];

/// Texts that nobody can write.
static FIXED: &[(&str, &str)] = &[
    ("fs/aio-nr", "0"),
    ("fs/dentry-state", "0\t0\t45\t0\t0\t0"),
    ("fs/inode-nr", "0\t0"),
    ("fs/inode-state", "0\t0\t0\t0\t0\t0\t0"),
    ("kernel/arch", "x86_64"),
    ("kernel/bootloader_type", "0"),
    ("kernel/cap_last_cap", "40"),
    ("kernel/ngroups_max", "65536"),
    ("kernel/ostype", "Linux"),
    ("kernel/overflowgid", "65534"),
    ("kernel/overflowuid", "65534"),
    ("kernel/random/entropy_avail", "256"),
    ("kernel/random/poolsize", "256"),
    ("kernel/random/urandom_min_reseed_secs", "60"),
    ("kernel/random/write_wakeup_threshold", "256"),
    ("kernel/seccomp/actions_avail", "kill_process kill_thread trap errno user_notif trace log allow"),
    ("kernel/seccomp/actions_logged", "kill_process kill_thread trap errno user_notif trace log"),
    ("net/ipv4/tcp_available_congestion_control", "reno cubic"),
];

/// Adds the tree.
pub(super) fn add(tree: &mut Tree) {
    for &(path, default, lowest, highest) in NUMBERS {
        tree.add_setting(
            &format!("sys/{path}"),
            move |kernel| Ok(line(kernel.settings.get(path, &default.to_string()))),
            move |kernel, text| {
                let value = parse_number(text)?;
                if !(lowest..=highest).contains(&value) {
                    return Err(Errno::EINVAL);
                }
                kernel.settings.values.lock().insert(path, value.to_string());
                Ok(())
            },
        );
    }
    for &(path, default) in TEXTS {
        tree.add_setting(
            &format!("sys/{path}"),
            move |kernel| Ok(line(kernel.settings.get(path, default))),
            move |kernel, text| {
                let value = single_line(text)?;
                kernel.settings.values.lock().insert(path, value);
                Ok(())
            },
        );
    }
    for &(path, text) in FIXED {
        tree.add_text(&format!("sys/{path}"), text);
    }
    tree.add_setting(
        "sys/kernel/hostname",
        |kernel| Ok(bytes_line(&kernel.hostname.read())),
        |kernel, text| {
            *kernel.hostname.write() = node_name(text)?;
            Ok(())
        },
    );
    tree.add_setting(
        "sys/kernel/domainname",
        |kernel| Ok(bytes_line(&kernel.domainname.read())),
        |kernel, text| {
            *kernel.domainname.write() = node_name(text)?;
            Ok(())
        },
    );
    tree.add_file("sys/kernel/osrelease", |_| Ok(line(rustix::system::uname().release().to_string_lossy())));
    tree.add_file("sys/kernel/version", |_| Ok(line(rustix::system::uname().version().to_string_lossy())));
    tree.add_file("sys/kernel/pid_max", |_| Ok(line(PID_MAX)));
    tree.add_file("sys/kernel/threads-max", |kernel| Ok(line(kernel.limits.pids.unwrap_or(PID_MAX as u32))));
    tree.add_file("sys/kernel/pty/nr", |kernel| Ok(line(kernel.terminals.count())));
    tree.add_file("sys/kernel/random/uuid", |_| Ok(line(random_uuid())));
    tree.add_file("sys/kernel/random/boot_id", |kernel| Ok(line(kernel.settings.boot_id.get_or_init(random_uuid))));
    tree.add_file("sys/fs/file-max", |_| Ok(line(i64::MAX)));
    tree.add_file("sys/fs/file-nr", |kernel| {
        kernel.take_loans_back();
        let open: usize = kernel
            .pids
            .processes()
            .iter()
            .filter_map(|process| process.leader_or_any())
            .map(|task| task.files().descriptors().len())
            .sum();
        Ok(format!("{open}\t0\t{}\n", i64::MAX).into_bytes())
    });
    tree.add_directory("sys/fs/binfmt_misc").add_directory("sys/debug").add_directory("sys/dev").add_directory("sys/abi");
}

fn line(value: impl std::fmt::Display) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn bytes_line(value: &[u8]) -> Vec<u8> {
    [value, b"\n"].concat()
}

/// What was written, without its line end; EINVAL for control characters within.
fn single_line(text: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_end_matches(['\n', '\0']);
    if text.chars().any(|character| character.is_control() && character != '\t') {
        return Err(Errno::EINVAL);
    }
    Ok(text.to_owned())
}

/// A name as sethostname(2) limits it.
fn node_name(text: &[u8]) -> Result<Vec<u8>> {
    let end = text.iter().position(|&byte| byte == b'\n' || byte == 0).unwrap_or(text.len());
    if end > 64 {
        return Err(Errno::EINVAL);
    }
    Ok(text[..end].to_vec())
}

/// A random (version 4) UUID.
fn random_uuid() -> String {
    let mut bytes = [0u8; 16];
    // getrandom(2) of 16 bytes is whole once the pool is ready, which it is long before us.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hexadecimal[..8],
        &hexadecimal[8..12],
        &hexadecimal[12..16],
        &hexadecimal[16..20],
        &hexadecimal[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_looks_like_one() {
        let uuid = random_uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert_ne!(uuid, random_uuid());
    }

    #[test]
    fn texts_are_checked() {
        assert_eq!(single_line(b"32768 60999\n"), Ok("32768 60999".into()));
        assert_eq!(single_line(b"a\nb"), Err(Errno::EINVAL));
        assert_eq!(node_name(b"host\n"), Ok(b"host".to_vec()));
        assert_eq!(node_name(&[b'a'; 65]), Err(Errno::EINVAL));
    }
}
