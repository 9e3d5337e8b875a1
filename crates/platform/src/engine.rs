//! How application processes are made, stopped and served (being built by the lead).

use rustix::process::{Pid, Signal};

/// A host call that an application makes itself, through its stub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NativeCall {
    pub number: u64,
    pub arguments: [u64; 6],
}

/// The host thread behind a guest task.
#[derive(Debug)]
pub struct HostThread {
    pub pid: i32,
    pub tid: i32,
}

impl HostThread {
    /// Makes the thread enter the guest kernel soon, wherever it is. A thread that is in a call anyway notices nothing.
    pub fn kick(&self) {
        // SAFETY: tgkill takes plain numbers; a thread that is gone gives ESRCH, which is as good.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.tid, libc::SIGSTKFLT) };
    }
}

/// The host process behind a guest process.
#[derive(Debug)]
pub struct HostProcess {
    pub pid: i32,
}

impl HostProcess {
    /// Ends the host process; its death is then reported by the engine.
    pub fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// CPU time used so far: (user, system) in nanoseconds; (0, 0) once it is gone.
    pub fn cpu_time_ns(&self) -> (u64, u64) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return (0, 0) };
        let Some((_, rest)) = stat.rsplit_once(')') else { return (0, 0) };
        let mut fields = rest.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().unwrap_or(0));
        let tick_ns = 10_000_000;
        (fields.next().unwrap_or(0) * tick_ns, fields.next().unwrap_or(0) * tick_ns)
    }
}
