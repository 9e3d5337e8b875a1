//! Where application processes come from: the zygote, a small static process that the sentry starts before it holds
//! anything secret, and that forks pool processes. The sentry is every such process's parent (CLONE_PARENT).

use crate::board::Board;
use crate::filter::{self, Needs};
use crate::layout::{zygote as message, ZYGOTE_BOARD, ZYGOTE_SOCKET};
use crate::listener::{Features, Listener};
use crate::HostError;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::{retry_on_intr, write};
use rustix::net::{
    recvmsg, send, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The connection to a running zygote.
pub struct Zygote {
    socket: OwnedFd,
    child: Child,
    features: Features,
    /// Where the vDSO lies in every application process (AT_SYSINFO_EHDR).
    pub vdso: u64,
}

/// A pool process that is to be made.
pub struct Order {
    /// It announces itself with this.
    pub token: [u64; 2],
    /// Start and size of what it maps for its program's stack.
    pub stack: (u64, u64),
}

/// What comes from the zygote's socket.
pub enum Message {
    /// A pool process has put itself behind its filters; `token` is what it was ordered with.
    Pool { token: [u64; 2], listener: Listener },
    /// A process could not be made.
    Failed { stage: &'static str, errno: i32 },
    /// The zygote is gone.
    Closed,
}

fn stage_name(stage: u64) -> &'static str {
    match stage {
        1 => "setting no_new_privs",
        2 => "installing signal handlers",
        3 => "forking",
        4 => "mapping its thread block",
        5 => "installing a seccomp filter with a listener (is there one already, as in a nested sandbox?)",
        6 => "installing the seccomp filter",
        7 => "mapping its stack",
        8 => "mapping the board",
        _ => "an unknown stage",
    }
}

impl Zygote {
    /// Starts the zygote. To be called from a thread that lives as long as the sentry: the host kills the zygote and all
    /// applications when it ends.
    pub fn start(mut features: Features, needs: Needs, board: &Board) -> Result<Zygote, HostError> {
        let flags = MemfdFlags::CLOEXEC;
        let image = memfd_create(c"skerry-stub", flags | MemfdFlags::EXEC)
            .or_else(|_| memfd_create(c"skerry-stub", flags))
            .map_err(|error| HostError::new("memfd_create for the stub", error))?;
        let mut rest = crate::STUB;
        while !rest.is_empty() {
            let count = retry_on_intr(|| write(&image, rest)).map_err(|error| HostError::new("writing the stub", error))?;
            rest = &rest[count..];
        }
        // Read-only: a file that somebody has open for writing cannot be executed (ETXTBSY).
        let readable = rustix::fs::open(
            format!("/proc/self/fd/{}", image.as_raw_fd()),
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|error| HostError::new("opening the stub again", error))?;
        drop(image);
        // Away from the numbers that others get in the child.
        let above = |descriptor: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(descriptor, ZYGOTE_BOARD + 1)
                .map_err(|error| HostError::new("duplicating a descriptor of the zygote's", error))
        };
        let image = above(&readable)?;
        let board = above(board.memory())?;
        drop(readable);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| HostError::new("socketpair for the zygote", error))?;
        let (raw, board) = (theirs.as_raw_fd(), board.as_raw_fd());
        let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        command.arg0("skerry-guest").env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only async-signal-safe calls: dup2, fcntl, close_range, setrlimit, setsid.
        unsafe {
            command.pre_exec(move || {
                if raw == ZYGOTE_SOCKET {
                    libc::fcntl(raw, libc::F_SETFD, 0);
                } else if libc::dup2(raw, ZYGOTE_SOCKET) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if libc::dup2(board, ZYGOTE_BOARD) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // Everything else goes with exec (the image's own descriptor is still needed until then).
                let first = ZYGOTE_BOARD + 1;
                if libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
                    // Kernels before 5.11, and profiles that refuse it; numbers that are not open do no harm.
                    for descriptor in first..1024 {
                        libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
                    }
                }
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                libc::setsid();
                Ok(())
            });
        }
        let child = command.spawn().map_err(|error| HostError::new("starting the zygote", error))?;
        drop(theirs);
        // Guests go first when the host runs out of memory; raising the score needs no privilege.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "500");
        let mut zygote = Zygote { socket: ours, child, features, vdso: 0 };
        let (words, _) = zygote.receive_words()?;
        if words.first() == Some(&message::FAILED) {
            return Err(HostError {
                what: stage_name(words.get(1).copied().unwrap_or(0)),
                source: std::io::Error::from_raw_os_error(words.get(2).copied().unwrap_or(0) as i32),
            });
        }
        if words.is_empty() {
            return Err(HostError::new(
                "the zygote ended before it said anything (as it does in a nested sandbox)",
                std::io::Error::other("end of file"),
            ));
        }
        let [message::HELLO, vdso, gadget_start, gadget_end, ..] = words[..] else {
            return Err(HostError::new("the zygote's greeting", std::io::Error::other("unexpected message")));
        };
        zygote.vdso = vdso;
        features.wait_killable = features.wait_killable && supports_wait_killable();
        zygote.features = features;
        let (listener, strict) = (filter::listener(), filter::strict((gadget_start, gadget_end), needs));
        let flag = |needed: bool, flag: u64| if needed { flag } else { 0 };
        let told = flag(needs.arch_prctl, message::NEEDS_ARCH_PRCTL) | flag(needs.death_signal, message::NEEDS_DEATH_SIGNAL);
        let mut words = vec![message::FILTERS, listener_flags(features), listener.len() as u64, strict.len() as u64, told];
        words.extend(listener);
        words.extend(strict);
        zygote.send_words(&words)?;
        Ok(zygote)
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn features(&self) -> Features {
        self.features
    }

    /// Orders pool processes, at most `MAXIMUM_FORKS`.
    pub fn order(&self, orders: &[Order]) -> Result<(), HostError> {
        let mut words = vec![message::FORK, orders.len() as u64];
        for order in orders {
            words.extend([order.token[0], order.token[1], order.stack.0, order.stack.1]);
        }
        self.send_words(&words)
    }

    /// Waits for the next message; `None`: none came before `timeout`.
    pub fn receive(&self, timeout: Option<Duration>) -> Result<Option<Message>, HostError> {
        if let Some(timeout) = timeout {
            let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
            let came = retry_on_intr(|| poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)));
            if came.map_err(|error| HostError::new("waiting for the zygote", error))? == 0 {
                return Ok(None);
            }
        }
        self.receive_message().map(Some)
    }

    fn receive_message(&self) -> Result<Message, HostError> {
        let (words, descriptor) = self.receive_words()?;
        match (&words[..], descriptor) {
            ([message::POOL, first, second, ..], Some(listener)) => {
                Ok(Message::Pool { token: [*first, *second], listener: Listener::new(listener, self.features) })
            }
            ([message::FAILED, stage, errno, ..], _) => Ok(Message::Failed { stage: stage_name(*stage), errno: *errno as i32 }),
            _ => Ok(Message::Closed),
        }
    }

    fn send_words(&self, words: &[u64]) -> Result<(), HostError> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        retry_on_intr(|| send(&self.socket, &bytes, SendFlags::NOSIGNAL))
            .map_err(|error| HostError::new("writing to the zygote", error))?;
        Ok(())
    }

    fn receive_words(&self) -> Result<(Vec<u64>, Option<OwnedFd>), HostError> {
        let mut bytes = [0u8; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            retry_on_intr(|| recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))
                .map_err(|error| HostError::new("reading from the zygote", error))?;
        let words = bytes[..received.bytes].chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        let words = words.collect();
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok((words, descriptor))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NEW_LISTENER: u64 = 1 << 3;
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

fn listener_flags(features: Features) -> u64 {
    NEW_LISTENER | if features.wait_killable { WAIT_KILLABLE_RECV } else { 0 }
}

/// Whether the host's seccomp(2) knows the flag: with a null program EFAULT means that the flags were accepted.
fn supports_wait_killable() -> bool {
    // SAFETY: the program pointer is null, so that nothing can be installed.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, 1, NEW_LISTENER | WAIT_KILLABLE_RECV, std::ptr::null::<libc::c_void>()) };
    result < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
