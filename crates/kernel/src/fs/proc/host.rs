//! What the host's /proc says of the process behind a guest process.

use super::map;
use skerry_platform::host::{read_proc, read_proc_of};

/// One line of /proc/PID/stat (proc_pid_stat(5)), split: the fields behind the name.
pub(super) struct Stat {
    fields: Vec<String>,
}

impl Stat {
    pub fn of_process(pid: i32) -> Option<Stat> {
        Stat::parse(&read_proc_of(pid, "stat").ok()?)
    }

    pub fn of_thread(pid: i32, tid: i32) -> Option<Stat> {
        Stat::parse(&read_proc(&format!("{pid}/task/{tid}/stat")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        let text = std::str::from_utf8(text).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        Some(Stat { fields: rest.split_ascii_whitespace().map(str::to_owned).collect() })
    }

    pub fn state(&self) -> Option<u8> {
        self.fields.first()?.bytes().next()
    }

    /// `number` as proc_pid_stat(5) counts the fields (3: state).
    pub fn field(&self, number: usize) -> u64 {
        number.checked_sub(3).and_then(|index| self.fields.get(index)).and_then(|field| field.parse().ok()).unwrap_or(0)
    }

    pub fn times_ticks(&self) -> (u64, u64) {
        (self.field(14), self.field(15))
    }
}

/// Memory use, in pages (proc_pid_statm(5)), without what the sandbox itself has mapped there.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    pub size: u64,
    pub resident: u64,
    pub shared: u64,
    pub text: u64,
    pub data: u64,
}

impl Usage {
    pub fn of(pid: i32) -> Usage {
        let Ok(statm) = read_proc_of(pid, "statm") else { return Usage::default() };
        let text = String::from_utf8_lossy(&statm);
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let mut next = || fields.next().unwrap_or(0);
        let (size, resident, shared, text) = (next(), next(), next(), next());
        let (_, data) = (next(), next());
        let hidden = read_proc_of(pid, "maps").map(|maps| map::hidden_pages(&maps)).unwrap_or_default();
        Usage {
            size: size.saturating_sub(hidden.size),
            resident,
            shared,
            text: text.saturating_sub(hidden.text),
            data: data.saturating_sub(hidden.data),
        }
    }
}

/// The "VmPeak: ..." to "HugetlbPages: ..." lines of /proc/PID/status in KiB, by name.
pub(super) fn status_kib(pid: i32) -> Vec<(String, u64)> {
    let Ok(status) = read_proc_of(pid, "status") else { return Vec::new() };
    let text = String::from_utf8_lossy(&status);
    let kib = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(kib).collect()
}

/// Voluntary and involuntary context switches.
pub(super) fn switches(pid: i32) -> (u64, u64) {
    let Ok(status) = read_proc_of(pid, "status") else { return (0, 0) };
    let text = String::from_utf8_lossy(&status);
    let find = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    (find("voluntary_ctxt_switches:"), find("nonvoluntary_ctxt_switches:"))
}
