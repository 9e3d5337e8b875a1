//! From a fork to a program: who it is, what it has, where it is; and why not, where it cannot be.

use crate::failure;
use crate::guest::{Engine, Guest};
use crate::rules::landlock::Restriction;
use crate::weaken;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use skerry_control::{Failure, FailureKind, Spawn};
use skerry_platform::agent::{execute, fork, install_filter, leave, reset_signals};
use skerry_platform::listener::{Features, Listener};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

/// What a program gets besides what the request says.
pub struct Surroundings<'a> {
    pub guest: &'a Guest,
    /// RLIMIT_NPROC.
    pub process_limit: Option<u64>,
    /// Whether a listener can be had: only one may be above a process.
    pub listens: bool,
    /// The host's killer for want of memory takes programs before their init.
    pub dies_first: bool,
    /// What a program of root's keeps.
    pub kept: CapabilitySet,
    /// What one keeps that is not root's but ours, as we are (ambient capabilities): a server of files.
    pub kept_by_others: CapabilitySet,
    /// What of Landlock's it enters.
    pub restriction: Option<&'a Restriction>,
    /// It is laid out in memory as it is written: it could not do so itself once the filter is on.
    pub fixed_addresses: bool,
}

/// Its three standard streams; with a terminal, that is its controlling one.
pub struct Streams {
    pub descriptors: [OwnedFd; 3],
    pub terminal: bool,
    /// Its descriptors from 3 on.
    pub further: Vec<OwnedFd>,
}

/// Descriptors of a fork's own are from here on, where it hands on more than three.
const FAR: i32 = 64;

/// A program that runs: its pid, and what tells of its denials.
pub struct Started {
    pub pid: i32,
    pub listener: Option<Listener>,
}

/// Starts a program, and says when it runs.
pub fn start(spawn: &Spawn, streams: Streams, around: &Surroundings) -> Result<Started, Failure> {
    if spawn.arguments.is_empty() {
        return Err(failure(FailureKind::Invalid, "no program was named"));
    }
    let ids = around.guest.ids_for(spawn)?;
    let strings =
        |all: &[skerry_control::Bytes]| all.iter().map(|bytes| CString::new(bytes.0.clone())).collect::<Result<Vec<_>, _>>();
    let zero = |_| failure(FailureKind::Invalid, "a zero byte in an argument, the environment or the directory");
    let arguments = strings(&spawn.arguments).map_err(zero)?;
    let mut environment = strings(&spawn.environment).map_err(zero)?;
    CString::new(spawn.directory.0.clone()).map_err(zero)?;
    let named = environment.iter().any(|variable| variable.as_bytes().starts_with(b"TMPDIR="));
    if let Some(directory) = around.guest.temporary.as_ref().filter(|_| !named) {
        let variable = [b"TMPDIR=", directory.path.as_os_str().as_bytes()].concat();
        environment.extend(CString::new(variable));
    }
    let internal = |what: &str, error: &dyn std::fmt::Display| failure(FailureKind::Internal, format!("{what}: {error}"));
    let (told, tell) = UnixStream::pair().map_err(|error| internal("socket pair", &error))?;
    let mut tell = OwnedFd::from(tell);
    if !streams.further.is_empty() {
        tell = rustix::io::fcntl_dupfd_cloexec(&tell, FAR).map_err(|error| internal("socket pair", &error))?;
    }
    match fork() {
        Err(error) => Err(failure(
            FailureKind::Internal,
            format!("no process can be made: {}; is the limit of processes reached?", error.source),
        )),
        Ok(Some(pid)) => {
            drop((tell, streams));
            let listener = follow(told)?;
            Ok(Started { pid, listener })
        }
        Ok(None) => {
            drop(told);
            let failure = become_program(spawn, ids, &arguments, &environment, streams, around, &tell);
            let _ =
                std::io::Write::write_all(&mut std::fs::File::from(tell), &serde_json::to_vec(&failure).unwrap_or_default());
            leave(126)
        }
    }
}

/// Until the fork has become the program, or says why it cannot. Its listener comes from it before, and what it asks for is
/// granted as long as it is still ours: that is the start of the program and nothing else.
fn follow(told: UnixStream) -> Result<Option<Listener>, Failure> {
    let mut text = Vec::new();
    let mut listener: Option<Listener> = None;
    loop {
        let mut polled = vec![PollFd::new(&told, PollFlags::IN)];
        polled.extend(listener.iter().map(|listener| PollFd::new(listener.descriptor(), PollFlags::IN)));
        let _ = poll(&mut polled, None);
        let (said, asks) = (!polled[0].revents().is_empty(), polled.get(1).is_some_and(|one| !one.revents().is_empty()));
        if said {
            let mut bytes = [0; 4096];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [std::io::IoSliceMut::new(&mut bytes)];
            let received = rustix::io::retry_on_intr(|| recvmsg(&told, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC));
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    listener = descriptors.map(|one| Listener::new(one, Features::default())).next().or(listener);
                }
            }
            match received {
                Ok(received) if received.bytes > 0 => text.extend_from_slice(&bytes[..received.bytes]),
                _ => break,
            }
            continue;
        }
        if let Some(listener) = listener.as_ref().filter(|_| asks) {
            // The end of `told` comes before the program's first call: this is still ours.
            match listener.receive_now() {
                Ok(Some(asked)) => drop(listener.let_go_on(asked.id)),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
    // One byte goes with the listener.
    match serde_json::from_slice::<Failure>(text.strip_prefix(LISTENER_COMES).unwrap_or(&text)) {
        // It ended by itself: who reaps it finds nobody that knows it.
        Ok(failure) => Err(failure),
        Err(_) => Ok(listener),
    }
}

const LISTENER_COMES: &[u8] = b"L";

/// In the fork; returns only where it fails.
fn become_program(
    spawn: &Spawn,
    ids: Option<(u32, u32)>,
    arguments: &[CString],
    environment: &[CString],
    streams: Streams,
    around: &Surroundings,
    tell: &OwnedFd,
) -> Failure {
    let internal = |what: &str, error: &dyn std::fmt::Display| failure(FailureKind::Internal, format!("{what}: {error}"));
    if around.dies_first {
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    for (file, label) in &around.guest.labels {
        if let Err(error) = std::fs::write(format!("/proc/self/{file}"), label) {
            let message = format!("the label {label:?} cannot be had here: {error}");
            return failure(FailureKind::Unenforceable, message);
        }
    }
    // While its descriptor is still there.
    if let Some(Err(error)) = around.restriction.map(Restriction::enter) {
        return internal("Landlock", &error);
    }
    let becomes_root = ids.map_or(rustix::process::geteuid().is_root(), |(uid, _)| uid == 0);
    let kept = if becomes_root { around.kept } else { around.kept_by_others };
    let prepared = (|| {
        let terminal = streams.terminal;
        let [input, output, error] = streams.descriptors;
        rustix::stdio::dup2_stdin(&input)?;
        rustix::stdio::dup2_stdout(&output)?;
        rustix::stdio::dup2_stderr(&error)?;
        // Nothing of the init's is left before anything of the guest's is touched: no directory, no socket.
        drop((input, output, error));
        let mut open = vec![0, 1, 2, tell.as_raw_fd()];
        // From far away, so that none is in another one's place.
        let further = streams.further.iter().map(|one| rustix::io::fcntl_dupfd_cloexec(one, FAR));
        for (number, one) in (3..).zip(further.collect::<Result<Vec<_>, _>>()?) {
            skerry_platform::agent::hand_on_as(one.as_fd(), number).map_err(|_| Errno::BADF)?;
            open.push(number);
        }
        if !weaken::is_out("descriptors") {
            skerry_platform::foreground::close_all_but(open);
        }
        rustix::process::setsid()?;
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some(limit) = around.process_limit {
            let both = Rlimit { current: Some(limit), maximum: Some(limit) };
            rustix::process::setrlimit(Resource::Nproc, both)?;
        }
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        for (resource, limit) in &around.guest.resources {
            let both = Rlimit { current: Some(*limit), maximum: Some(*limit) };
            rustix::process::setrlimit(limit_of(*resource), both)?;
        }
        // Who is not root any more could not.
        bound_capabilities(kept);
        if let Some((uid, gid)) = ids {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
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
    if let Err(error) = drop_capabilities(kept).and_then(|()| if becomes_root { Ok(()) } else { hand_on(kept) }) {
        return internal("capabilities cannot be dropped", &error);
    }
    if let Err(error) = rustix::process::chdir(std::ffi::OsStr::from_bytes(&spawn.directory.0)) {
        let message = format!(
            "the working directory {} cannot be entered: {}",
            String::from_utf8_lossy(&spawn.directory.0),
            name_of(error.raw_os_error())
        );
        return Failure { kind: FailureKind::Invalid, message, errno: Some(error.raw_os_error()) };
    }
    if around.guest.engine == Engine::Rules {
        // No namespace ends it with the agent.
        skerry_platform::agent::die_with_parent();
        skerry_confine::mark::mark_program();
    }
    reset_signals();
    if around.fixed_addresses {
        skerry_platform::agent::fix_addresses();
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        return internal("no_new_privs", &error);
    }
    let candidates = match candidates(&arguments[0], environment) {
        Ok(candidates) => candidates,
        Err(failure) => return failure,
    };
    if let Err(error) = put_on_filter(around, tell) {
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

/// The last act before the program: from here on only what the filter allows. The listener, where one is wanted, is handed
/// over by a thread that the filter does not hold, as the filter may well deny that; the start of the program waits for it.
fn put_on_filter(around: &Surroundings, tell: &OwnedFd) -> std::io::Result<()> {
    if weaken::is_out("seccomp") {
        return Ok(());
    }
    let filter = &around.guest.filter;
    if !(around.guest.listens && around.listens) {
        return install_filter(filter.instructions(false), false).map(drop);
    }
    let made = Arc::new(OnceLock::<OwnedFd>::new());
    let (listener, tell) = (made.clone(), tell.try_clone()?);
    std::thread::Builder::new().stack_size(SMALL_STACK).spawn(move || {
        let listener = loop {
            match listener.get() {
                Some(listener) => break listener,
                None => std::thread::yield_now(),
            }
        };
        let _ = skerry_platform::own::send(&tell, LISTENER_COMES, &[listener.as_raw_fd()]);
    })?;
    match install_filter(filter.instructions(true), true) {
        Ok(Some(listener)) => drop(made.set(listener)),
        Ok(None) => {}
        // Somebody outside listens already.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            install_filter(filter.instructions(false), false)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Enough for one message.
const SMALL_STACK: usize = 64 << 10;

fn limit_of(resource: skerry_control::Resource) -> Resource {
    use skerry_control::Resource as Named;
    match resource {
        Named::As => Resource::As,
        Named::Core => Resource::Core,
        Named::Cpu => Resource::Cpu,
        Named::Data => Resource::Data,
        Named::Fsize => Resource::Fsize,
        Named::Memlock => Resource::Memlock,
        Named::Msgqueue => Resource::Msgqueue,
        Named::Nice => Resource::Nice,
        Named::Nofile => Resource::Nofile,
        Named::Nproc => Resource::Nproc,
        Named::Rtprio => Resource::Rtprio,
        Named::Rttime => Resource::Rttime,
        Named::Sigpending => Resource::Sigpending,
        Named::Stack => Resource::Stack,
    }
}

/// All but `kept`. What is not kept never comes back.
pub fn drop_capabilities(kept: CapabilitySet) -> Result<(), Errno> {
    bound_capabilities(kept);
    let _ = rustix::thread::clear_ambient_capability_set();
    let present = rustix::thread::capabilities(None)?.permitted & kept;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: present, permitted: present, inheritable: CapabilitySet::empty() },
    )
}

/// To a program that is not root's.
fn hand_on(kept: CapabilitySet) -> Result<(), Errno> {
    let sets = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: sets.permitted & kept, ..sets })?;
    (kept & sets.permitted).iter().try_for_each(|one| rustix::thread::configure_capability_in_ambient_set(one, true))
}

fn bound_capabilities(kept: CapabilitySet) {
    for number in 0..64u64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !kept.contains(one) {
            // EINVAL: the host knows no more of them.
            if rustix::thread::remove_capability_from_bounding_set(one) == Err(Errno::INVAL) {
                break;
            }
        }
    }
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
