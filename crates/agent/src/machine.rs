//! What a guest with a kernel of its own sees of the machine that it runs on: what is made for guests, and in use.

use skerry_control::Growth;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the host says of it, and what is seen here.
pub fn seen(about: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut found = about.clone();
    let read =
        |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let mut tell = |name: &str, value: Option<String>| found.extend(value.map(|value| (name.to_owned(), value)));
    tell("kernel", read("/proc/sys/kernel/osrelease"));
    tell("clock", read("/sys/devices/system/clocksource/clocksource0/current_clocksource"));
    tell("cpus", read("/sys/devices/system/cpu/online"));
    tell("entropy", read("/sys/class/misc/hw_random/rng_current"));
    tell("virtual devices", Some(drivers()).filter(|text| !text.is_empty()));
    tell("enlightenments", Some(said_at_boot(&kernel_log())).filter(|text| !text.is_empty()));
    found
}

/// How long the guest's kernel may take to find what was plugged in.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the guest has as much as that; says which CPUs are there then.
pub fn grown(wanted: &Growth) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let cpus = std::fs::read_to_string(format!("{SYSTEM}/cpu/online")).unwrap_or_default();
        let memory = online_memory();
        if count(&cpus) >= u64::from(wanted.cpus) && memory >= wanted.memory {
            return Ok(cpus.trim().to_owned());
        }
        if Instant::now() > deadline {
            let mib = |bytes: u64| bytes >> 20;
            return Err(format!(
                "the guest has not taken what its machine was given: it has CPUs {} and {} MiB, not {} CPUs and {} MiB",
                cpus.trim(),
                mib(memory),
                wanted.cpus,
                mib(wanted.memory)
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

const SYSTEM: &str = "/sys/devices/system";

/// Of a list such as `0-2,5`.
fn count(list: &str) -> u64 {
    let number = |text: &str| text.parse::<u64>().ok();
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((number(last)? + 1).saturating_sub(number(first)?))
    };
    list.trim().split(',').filter_map(span).sum()
}

/// In whole blocks, as the kernel has it: the first one may be there in part only.
fn online_memory() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let block = u64::from_str_radix(read(Path::new(&format!("{SYSTEM}/memory/block_size_bytes"))).trim(), 16).unwrap_or(0);
    let blocks = std::fs::read_dir(format!("{SYSTEM}/memory")).into_iter().flatten().flatten();
    block * blocks.filter(|entry| read(&entry.path().join("state")).trim() == "online").count() as u64
}

/// Drivers of virtio that have a device.
fn drivers() -> String {
    let mut names = Vec::new();
    for driver in std::fs::read_dir("/sys/bus/virtio/drivers").into_iter().flatten().flatten() {
        let bound =
            |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().any(|entry| is_device(&entry.file_name()));
        if bound(&driver.path()) {
            names.push(driver.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.join(", ")
}

fn is_device(name: &std::ffi::OsStr) -> bool {
    name.to_str().and_then(|name| name.strip_prefix("virtio")).is_some_and(|number| number.parse::<u32>().is_ok())
}

/// What kernels say when they find out that they are guests, and what they do about it then.
const SAYINGS: &[(&str, &str)] = &[
    ("Hypervisor detected: ", "hypervisor: "),
    ("kvm-clock: Using msrs", "kvm-clock"),
    ("KVM setup pv IPIs", "pv IPIs"),
    ("PV qspinlock hash table", "pv spinlocks"),
    ("kvm-guest: PV spinlocks enabled", "pv spinlocks"),
    ("kvm-guest: setup async PF", "async page faults"),
    ("kvm-guest: stealtime", "steal time"),
    ("Free page reporting enabled", "free page reporting"),
];

fn said_at_boot(log: &str) -> String {
    let mut found: Vec<String> = Vec::new();
    for line in log.lines() {
        for (said, name) in SAYINGS {
            let Some((_, rest)) = line.split_once(said) else { continue };
            let text = if name.ends_with(' ') { format!("{name}{}", rest.trim()) } else { (*name).to_owned() };
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found.join(", ")
}

/// As much of it as comes at once, one message each time.
fn kernel_log() -> String {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let Ok(device) = rustix::fs::open("/dev/kmsg", flags, rustix::fs::Mode::empty()) else { return String::new() };
    let mut text = String::new();
    let mut message = [0; 8192];
    while let Ok(count @ 1..) = rustix::io::read(&device, &mut message) {
        text.push_str(&String::from_utf8_lossy(&message[..count]));
        if text.len() > 1 << 20 {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(["0", "0-3\n", "0-2,5,7-8", "", "3-1", "x"].map(count), [1, 4, 6, 0, 0, 0]);
    }

    #[test]
    fn what_a_kernel_says_of_being_a_guest() {
        let log = "6,0,0,-;Linux version 6.1\n6,1,0,-;Hypervisor detected: KVM\n6,2,0,-;kvm-clock: Using msrs 4b and 4c\n\
            6,3,0,-;PV qspinlock hash table entries: 256\n6,4,0,-;kvm-guest: PV spinlocks enabled\n";
        assert_eq!(said_at_boot(log), "hypervisor: KVM, kvm-clock, pv spinlocks");
        assert!(is_device("virtio12".as_ref()) && !is_device("virtio_ring".as_ref()) && !is_device("uevent".as_ref()));
    }
}
