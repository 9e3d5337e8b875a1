//! From a fork to a program: who it is, what it has, where it is; and why not, where it cannot be.

use crate::failure;
use crate::namespace::{Guest, KEPT};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use skerry_control::{Failure, FailureKind, Spawn};
use skerry_platform::agent::{execute, fork, leave, reset_signals};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

/// What a program gets besides what the request says.
pub struct Surroundings<'a> {
    pub guest: &'a Guest,
    /// RLIMIT_NPROC.
    pub process_limit: Option<u64>,
    /// The host's killer for want of memory takes programs before their init.
    pub dies_first: bool,
}

/// Its three standard streams; with a terminal, that is its controlling one.
pub struct Streams {
    pub descriptors: [OwnedFd; 3],
    pub terminal: bool,
}

/// Starts a program, and says when it runs; gives its pid.
pub fn start(spawn: &Spawn, streams: Streams, around: &Surroundings) -> Result<i32, Failure> {
    if spawn.arguments.is_empty() {
        return Err(failure(FailureKind::Invalid, "no program was named"));
    }
    if let Some((uid, gid)) = around.guest.only_id {
        if (spawn.uid, spawn.gid) != (uid, gid) || spawn.groups.iter().any(|group| *group != gid) {
            let message = format!(
                "user {}:{} cannot be had from the engine namespace here: without privileges only {uid}:{gid} exists inside",
                spawn.uid, spawn.gid
            );
            return Err(failure(FailureKind::Unenforceable, message));
        }
    }
    let strings =
        |all: &[skerry_control::Bytes]| all.iter().map(|bytes| CString::new(bytes.0.clone())).collect::<Result<Vec<_>, _>>();
    let zero = |_| failure(FailureKind::Invalid, "a zero byte in an argument, the environment or the directory");
    let arguments = strings(&spawn.arguments).map_err(zero)?;
    let environment = strings(&spawn.environment).map_err(zero)?;
    CString::new(spawn.directory.0.clone()).map_err(zero)?;
    let internal = |what: &str, error: &dyn std::fmt::Display| failure(FailureKind::Internal, format!("{what}: {error}"));
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| internal("pipe", &error))?;
    match fork() {
        Err(error) => Err(failure(
            FailureKind::Internal,
            format!("no process can be made: {}; is the limit of processes reached?", error.source),
        )),
        Ok(Some(pid)) => {
            drop((tell, streams));
            let mut text = Vec::new();
            let _ = std::io::Read::read_to_end(&mut std::fs::File::from(told), &mut text);
            match serde_json::from_slice::<Failure>(&text) {
                // It ended by itself: who reaps it finds nobody that knows it.
                Ok(failure) => Err(failure),
                Err(_) => Ok(pid),
            }
        }
        Ok(None) => {
            drop(told);
            let failure = become_program(spawn, &arguments, &environment, streams, around, &tell);
            let _ =
                std::io::Write::write_all(&mut std::fs::File::from(tell), &serde_json::to_vec(&failure).unwrap_or_default());
            leave(126)
        }
    }
}

/// In the fork; returns only where it fails.
fn become_program(
    spawn: &Spawn,
    arguments: &[CString],
    environment: &[CString],
    streams: Streams,
    around: &Surroundings,
    tell: &OwnedFd,
) -> Failure {
    let internal = |what: &str, error: &dyn std::fmt::Display| failure(FailureKind::Internal, format!("{what}: {error}"));
    let prepared = (|| {
        let terminal = streams.terminal;
        let [input, output, error] = streams.descriptors;
        rustix::stdio::dup2_stdin(&input)?;
        rustix::stdio::dup2_stdout(&output)?;
        rustix::stdio::dup2_stderr(&error)?;
        // Nothing of the init's is left before anything of the guest's is touched: no directory, no socket.
        drop((input, output, error));
        skerry_platform::foreground::close_all_but([0, 1, 2, tell.as_raw_fd()]);
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if around.dies_first {
            let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        }
        if let Some(limit) = around.process_limit {
            let both = Rlimit { current: Some(limit), maximum: Some(limit) };
            rustix::process::setrlimit(Resource::Nproc, both)?;
        }
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        if around.guest.only_id.is_none() {
            let (uid, gid) = (Uid::from_raw(spawn.uid), Gid::from_raw(spawn.gid));
            let groups: Vec<Gid> = spawn.groups.iter().map(|group| Gid::from_raw(*group)).collect();
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        Ok::<(), Errno>(())
    })();
    if let Err(error) = prepared {
        return internal("a process cannot be prepared", &error);
    }
    if let Err(error) = drop_capabilities(spawn.uid == 0) {
        return internal("capabilities cannot be dropped", &error);
    }
    use std::os::unix::ffi::OsStrExt;
    if let Err(error) = rustix::process::chdir(std::ffi::OsStr::from_bytes(&spawn.directory.0)) {
        let message = format!(
            "the working directory {} cannot be entered: {}",
            String::from_utf8_lossy(&spawn.directory.0),
            name_of(error.raw_os_error())
        );
        return Failure { kind: FailureKind::Invalid, message, errno: Some(error.raw_os_error()) };
    }
    reset_signals();
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        return internal("no_new_privs", &error);
    }
    let candidates = match candidates(&arguments[0], environment) {
        Ok(candidates) => candidates,
        Err(failure) => return failure,
    };
    if let Err(error) = around.guest.filters.apply() {
        return internal("the filter of system calls", &error);
    }
    let mut verdict = None;
    for program in candidates {
        let error = execute(&program, arguments, environment).raw_os_error().unwrap_or(0);
        let missing = matches!(error, libc::ENOENT | libc::ENOTDIR);
        if !missing {
            verdict = Some(error);
            if error != libc::EACCES {
                break;
            }
        } else if verdict.is_none() && rustix::fs::stat(&program).is_ok() {
            verdict = Some(libc::ENOENT);
        }
    }
    let name = String::from_utf8_lossy(arguments[0].as_bytes()).into_owned();
    match verdict {
        None => failure(FailureKind::NotFound, format!("{name}: command not found")),
        Some(libc::ENOENT) => failure(FailureKind::NotFound, format!("{name}: the interpreter that it names does not exist")),
        Some(errno) => {
            let why = match errno {
                libc::ENOEXEC => "not a program for x86-64 Linux (wrong format)".into(),
                libc::EACCES
                    if rustix::fs::stat(name.as_str())
                        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()) =>
                {
                    "is a directory".into()
                }
                libc::EACCES => "permission denied".into(),
                libc::ELIBBAD => "its interpreter is not a program".into(),
                other => name_of(other),
            };
            let message = format!("{name}: cannot be executed: {why}");
            let kind =
                if errno == libc::E2BIG || errno == libc::ENOMEM { FailureKind::Invalid } else { FailureKind::NotExecutable };
            Failure { kind, message, errno: Some(errno) }
        }
    }
}

/// An errno as people read it.
pub fn name_of(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Of the guest's root what is kept; of others none. What is not kept never comes back.
fn drop_capabilities(root: bool) -> Result<(), Errno> {
    for number in 0..64u64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !KEPT.contains(one) {
            // EINVAL: the host knows no more of them.
            if rustix::thread::remove_capability_from_bounding_set(one) == Err(Errno::INVAL) {
                break;
            }
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let kept = if root { KEPT } else { CapabilitySet::empty() };
    let present = rustix::thread::capabilities(None)?.permitted & kept;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: present, permitted: present, inheritable: CapabilitySet::empty() },
    )
}

/// Where the program may be: as named, or in PATH of its environment.
fn candidates(name: &CString, environment: &[CString]) -> Result<Vec<CString>, Failure> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        return Err(failure(FailureKind::NotFound, "the name of the command is empty"));
    }
    if bytes.contains(&b'/') {
        return Ok(vec![name.clone()]);
    }
    let path = environment
        .iter()
        .find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let in_directory = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        CString::new([directory, b"/", bytes].concat()).ok()
    };
    Ok(path.split(|byte| *byte == b':').filter_map(in_directory).collect())
}

/// What stands for a stream that nobody gave.
pub fn null() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failure(FailureKind::Internal, format!("/dev/null: {error}")))
}
