//! `skerry-agent --engine guest`: the first process of a kernel of its own, in a machine that `skerry-machine` has started.
//!
//! It makes the channel to the host ready, and hands the descriptors that the host's relay speaks of as streams to the
//! ordinary agent, over a socket pair: its child, in namespaces of its own as on any other Linux host, so that nothing that
//! programs may do (kill(-1) of root's, say) reaches us. When that has ended, the machine is switched off.

use crate::boot;
use crate::guest::Engine;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::mount::{mount, MountFlags};
use rustix::system::{finit_module, reboot, RebootCommand};
use rustix::termios::{tcgetattr, tcsetattr, OptionalActions};
use skerry_confine::connection::Connection;
use skerry_confine::mux::wire::{Frame, Kind, FROM_GUEST, GREETING, LONGEST, TO_GUEST};
use skerry_confine::mux::{Mux, Receiver};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the kernel's command line says behind `--`.
struct Arguments {
    /// A serial line or a virtio port.
    channel: String,
    /// Modules to load first, in this order.
    modules: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut found = Arguments { channel: String::new(), modules: Vec::new() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--engine" => drop(words.next()?),
            "--channel" => found.channel = words.next()?,
            "--module" => found.modules.push(words.next()?),
            // Kernels have words of their own behind ours.
            _ => {}
        }
    }
    (!found.channel.is_empty()).then_some(found)
}

/// Whether this is what we were started for.
pub fn is_asked_for() -> bool {
    let words: Vec<String> = std::env::args().skip(1).take(2).collect();
    words == ["--engine", Engine::Guest.name()]
}

/// Never returns in a guest: the machine is off then.
pub fn run() -> std::process::ExitCode {
    if let Err(error) = serve() {
        eprintln!("skerry-agent: {error}");
    }
    if std::process::id() == 1 {
        rustix::fs::sync();
        let _ = reboot(RebootCommand::PowerOff);
    }
    std::process::ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let arguments =
        parse(std::env::args().skip(1)).ok_or("usage: skerry-agent --engine guest --channel PATH [--module PATH ...]")?;
    if std::process::id() != 1 {
        return Err("only the first process of a machine can be a guest's init".into());
    }
    make_system()?;
    for path in &arguments.modules {
        let file = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| format!("{path}: {error}"))?;
        finit_module(&file, &CString::default(), 0).map_err(|error| format!("the module {path}: {error}"))?;
    }
    let channel = open_channel(&arguments.channel).map_err(|error| format!("{}: {error}", arguments.channel))?;
    let (ours, theirs) = UnixStream::pair()?;
    // While there is one thread.
    let Some(agent) = skerry_platform::agent::fork()? else {
        drop((channel, ours));
        let done = boot::serve(Connection::new(theirs.into()), Engine::Guest);
        if let Err(error) = &done {
            eprintln!("skerry-agent: {error}");
        }
        skerry_platform::agent::leave(i32::from(done.is_err()))
    };
    drop(theirs);
    relay(channel, ours)?;
    // Orphans of the guest's own are reaped in its namespace; here there are few.
    while skerry_platform::agent::wait_for_any().is_some_and(|dead| dead.pid != agent) {}
    Ok(())
}

/// The file systems that show the kernel. What is there already is there.
fn make_system() -> Result<()> {
    let system = [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
    ];
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (source, target, kind) in system {
        match mount(source, target, kind, flags, None) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            // Limits are refused then, by name.
            Err(_) if kind == "cgroup2" => {}
            Err(error) => return Err(format!("{target}: {error}").into()),
        }
    }
    Ok(())
}

fn open_channel(path: &str) -> rustix::io::Result<OwnedFd> {
    let channel = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // A serial line; a virtio port is none, and passes bytes as they are.
    if let Ok(mut modes) = tcgetattr(&channel) {
        modes.make_raw();
        tcsetattr(&channel, OptionalActions::Now, &modes)?;
    }
    Ok(channel)
}

/// Until the agent has ended, or the host: between the channel and the agent's socket.
fn relay(channel: OwnedFd, agent: UnixStream) -> Result<()> {
    let mux = Mux::new(channel.try_clone()?);
    let mut receiver = Receiver::new(channel);
    mux.send(Kind::Hello, 0, GREETING);
    let agent = Arc::new(OwnedFd::from(agent));
    let (socket, sending) = (agent.clone(), mux.clone());
    let from_agent = std::thread::spawn(move || {
        let mut bytes = [0; LONGEST];
        while let Ok(count @ 1..) = retry_on_intr(|| rustix::io::read(&*socket, &mut bytes)) {
            sending.send_control(&bytes[..count]);
        }
    });
    std::thread::spawn(move || {
        // Descriptors for the next request.
        let waiting = Mutex::new(Vec::new());
        let told = (|| {
            while let Some(frame) = receiver.next()? {
                to_agent(&mux, &agent, &waiting, frame)?;
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        })();
        if let Err(error) = told {
            eprintln!("skerry-agent: the host's relay: {error}");
        }
        // The agent hears of it, and ends.
        let _ = rustix::net::shutdown(&*agent, rustix::net::Shutdown::Both);
    });
    from_agent.join().map_err(|_| "the thread that reads from the agent ended")?;
    Ok(())
}

fn to_agent(mux: &Mux, agent: &OwnedFd, waiting: &Mutex<Vec<OwnedFd>>, frame: Frame) -> Result<()> {
    match frame.kind {
        Kind::Open => {
            let descriptor = open_stream(mux, frame.stream, frame.payload[0])?;
            waiting.lock().push(descriptor);
        }
        Kind::Control => {
            let descriptors = std::mem::take(&mut *waiting.lock());
            let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            skerry_platform::own::send(agent, &frame.payload, &numbers)?;
        }
        _ => mux.serve(frame)?,
    }
    Ok(())
}

/// The program's end of a stream.
fn open_stream(mux: &Mux, stream: u32, directions: u8) -> Result<OwnedFd> {
    match directions {
        TO_GUEST => {
            let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            mux.add_sink(stream, ours)?;
            Ok(theirs)
        }
        FROM_GUEST => {
            let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            mux.add_source(stream, ours)?;
            Ok(theirs)
        }
        0 => Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into()),
        _ => {
            let (ours, theirs) = UnixStream::pair()?;
            mux.add_sink(stream, ours.try_clone()?.into())?;
            mux.add_source(stream, ours.into())?;
            Ok(theirs.into())
        }
    }
}
