//! `skerry-agent --engine guest`: the first process of a kernel of its own, in a machine that `skerry-machine` has started.
//!
//! It makes the channel to the host ready, and hands the descriptors that the host's relay speaks of as streams to the
//! ordinary agent, over a socket pair: its child, in namespaces of its own as on any other Linux host, so that nothing that
//! programs may do (kill(-1) of root's, say) reaches us. When that has ended, the machine is switched off.

use crate::guest::Engine;
use crate::{boot, failure};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, Timespec};
use rustix::io::{retry_on_intr, Errno};
use rustix::mount::{mount, mount_move, MountFlags};
use rustix::system::{finit_module, reboot, RebootCommand};
use rustix::termios::{tcgetattr, tcsetattr, OptionalActions};
use skerry_confine::connection::Connection;
use skerry_confine::mux::wire::{Frame, Kind, FROM_GUEST, GREETING, LONGEST, TO_GUEST};
use skerry_confine::mux::{Mux, Receiver};
use skerry_control::{base64, Boot, Failure, FailureKind, Network};
use std::ffi::CString;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the kernel's command line says behind `--`.
#[derive(Default)]
struct Arguments {
    /// A serial line, or `port:NAME`: the virtio port of that name.
    channel: String,
    /// Modules to load first, in this order; of a directory all that are in it, in the order of their names.
    modules: Vec<PathBuf>,
    /// The line holds so many bytes: the host is to be told of what is read.
    line: Option<usize>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut found = Arguments::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--engine" => drop(words.next()?),
            "--channel" => found.channel = words.next()?,
            "--module" => found.modules.push(words.next()?.into()),
            "--line" => found.line = Some(words.next()?.parse().ok()?),
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
    make_system("")?;
    // What holds is the limit: a machine's whole memory is as much as that, and says nothing of what a program may ask for.
    let _ = std::fs::write("/proc/sys/vm/overcommit_memory", "1");
    arguments.modules.iter().try_for_each(|path| load(path))?;
    let channel = open_channel(&arguments.channel).map_err(|error| format!("{}: {error}", arguments.channel))?;
    let (ours, theirs) = UnixStream::pair()?;
    // While there is one thread.
    let Some(agent) = skerry_platform::agent::fork()? else {
        drop((channel, ours));
        let done = boot::serve(Connection::new(theirs.into()), Engine::Guest, arrive);
        if let Err(error) = &done {
            eprintln!("skerry-agent: {error}");
        }
        skerry_platform::agent::leave(i32::from(done.is_err()))
    };
    drop(theirs);
    // Without it machines do not grow: whoever asks for that hears of it.
    let _ = take_what_is_plugged_in();
    relay(channel, ours, arguments.line)?;
    // Orphans of the guest's own are reaped in its namespace; here there are few.
    while skerry_platform::agent::wait_for_any().is_some_and(|dead| dead.pid != agent) {}
    Ok(())
}

/// CPUs are brought online as they come, which no kernel does by itself; memory is, by the command line.
fn take_what_is_plugged_in() -> Result<()> {
    use rustix::net::{bind, netlink, recv, socket_with, AddressFamily, RecvFlags, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
    // The kernel's own messages, not what a udev would pass on.
    bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
    std::thread::Builder::new().spawn(move || {
        let mut message = [0; 4096];
        // ENOBUFS: some were lost.
        while let Ok((count, _)) = recv(&socket, &mut message[..], RecvFlags::empty()) {
            let first = message[..count].split(|byte| *byte == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(first).ok().and_then(|text| text.strip_prefix("add@/devices/system/cpu/cpu"));
            if let Some(number) = name.and_then(|name| name.parse::<u32>().ok()) {
                let _ = std::fs::write(format!("/sys/devices/system/cpu/cpu{number}/online"), "1");
            }
        }
    })?;
    Ok(())
}

/// A module, or those of a directory.
fn load(path: &Path) -> Result<()> {
    let told = |error: &dyn std::fmt::Display| format!("the module {}: {error}", path.display());
    if path.is_dir() {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        return paths.iter().try_for_each(|path| load(path));
    }
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| told(&error))?;
    match finit_module(&file, &CString::default(), 0) {
        // One that another has asked for meanwhile.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(told(&error).into()),
    }
}

/// The file systems that show the kernel, below `top`. What is there already is there.
fn make_system(top: &str) -> Result<()> {
    let system = [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs"), ("/sys/fs/cgroup", "cgroup2")];
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (target, kind) in system {
        let target = format!("{top}{target}");
        if top.is_empty() {
            let _ = std::fs::create_dir(&target);
        }
        match mount(kind, target.as_str(), kind, flags, None) {
            Ok(()) | Err(Errno::BUSY) => {}
            // Limits are refused then, by name.
            Err(_) if kind == "cgroup2" => {}
            Err(error) => return Err(format!("{target}: {error}").into()),
        }
    }
    Ok(())
}

/// In the agent, before it makes anything: its tree becomes the one that the host shares, and what all machines that were kept
/// together have in common goes.
fn arrive(wanted: &Boot) -> std::result::Result<(), Failure> {
    let unsupported = |what: String| failure(FailureKind::Unsupported, what);
    if let Some(resumed) = &wanted.resumed {
        let entropy = base64::decode(&resumed.entropy).unwrap_or_default();
        skerry_platform::agent::renew_random_numbers(&entropy)
            .map_err(|error| unsupported(format!("the guest's random numbers: {error}")))?;
        let time = Timespec { tv_sec: resumed.time_ns / 1_000_000_000, tv_nsec: resumed.time_ns % 1_000_000_000 };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, time)
            .map_err(|error| unsupported(format!("the guest's clock: {error}")))?;
    }
    let has_card = wanted.network == Network::User;
    // They are in the first tree.
    if has_card && Path::new(NETWORK_MODULES).is_dir() {
        load(Path::new(NETWORK_MODULES)).map_err(|error| unsupported(error.to_string()))?;
    }
    if let Some(tree) = &wanted.tree {
        let (kind, source) = tree.split_once(':').unwrap_or((tree, ""));
        find_tree(kind, source).map_err(|error| unsupported(format!("the guest's tree ({tree}): {error}")))?;
    }
    if has_card {
        find_card().map_err(|error| unsupported(format!("the guest's network card: {error}")))?;
    }
    Ok(())
}

/// Loaded where there is a card only.
const NETWORK_MODULES: &str = "/network";

/// As the gateway (`skerry-gateway`) has it: nobody is asked.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const ADDRESS_BITS: u8 = 24;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Brings up the card, which may have been plugged in just now.
fn find_card() -> Result<()> {
    let deadline = Instant::now() + TREE_PATIENCE;
    let name = loop {
        let names = std::fs::read_dir("/sys/class/net")?.flatten().map(|entry| entry.file_name());
        // What has a device behind it: lo, and others that a kernel makes by itself, have none.
        let card = names.into_iter().find(|name| Path::new("/sys/class/net").join(name).join("device").exists());
        match card.and_then(|name| name.into_string().ok()) {
            Some(name) => break name,
            None if Instant::now() > deadline => return Err("it has not appeared; has the guest's kernel virtio_net?".into()),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // There is nobody to ask for an address of the sixth version, and programs need not try.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    Ok(skerry_platform::agent::raise_card(&name, ADDRESS, ADDRESS_BITS, GATEWAY)?)
}

/// Where the host's files are put, before they are the root.
const TREE: &str = "/tree";
/// How long its device may take to appear.
const TREE_PATIENCE: Duration = Duration::from_secs(20);

fn find_tree(kind: &str, source: &str) -> Result<()> {
    let _ = std::fs::create_dir(TREE);
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mut place = PathBuf::from(TREE);
    if kind != "virtiofs" {
        // An image has what it has: what is needed besides, and the one source of mounts, are made around it.
        flags |= MountFlags::RDONLY;
        mount("tmpfs", TREE, "tmpfs", flags - MountFlags::RDONLY, Some(c"mode=0755"))?;
        place.push("0");
        ["proc", "sys", "dev", "0"].iter().try_for_each(|name| std::fs::create_dir(Path::new(TREE).join(name)))?;
    }
    let deadline = Instant::now() + TREE_PATIENCE;
    while let Err(error) = mount(source, &place, kind, flags, None) {
        // The device is not there yet.
        if !matches!(error, Errno::INVAL | Errno::NOENT | Errno::NXIO) || Instant::now() > deadline {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    make_system(TREE)?;
    rustix::process::chdir(TREE)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

fn open_channel(name: &str) -> Result<OwnedFd> {
    let path = match name.strip_prefix("port:") {
        Some(name) => port(name)?,
        None => name.into(),
    };
    let deadline = Instant::now() + TREE_PATIENCE;
    let channel = loop {
        match rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(channel) => break channel,
            // What serves it (Xen's first domain, for one) may not have come yet.
            Err(Errno::NODEV | Errno::NXIO | Errno::NOENT) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    };
    // A serial line; a virtio port is none, and passes bytes as they are.
    if let Ok(mut modes) = tcgetattr(&channel) {
        modes.make_raw();
        tcsetattr(&channel, OptionalActions::Now, &modes)?;
    }
    Ok(channel)
}

/// The virtio port of that name: its device may not have told it yet.
fn port(name: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + TREE_PATIENCE;
    loop {
        for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            if std::fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim_end() == name) {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        if Instant::now() > deadline {
            return Err(format!("there is no port {name}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Until the agent has ended, or the host: between the channel and the agent's socket.
fn relay(channel: OwnedFd, agent: UnixStream, line: Option<usize>) -> Result<()> {
    let mux = Mux::new(channel.try_clone()?, None);
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
            let mut unsaid = 0;
            loop {
                while let Some(frame) = receiver.next_buffered()? {
                    to_agent(&mux, &agent, &waiting, frame)?;
                }
                let count = receiver.read();
                if count == 0 {
                    break;
                }
                unsaid += count;
                if line.is_some_and(|line| unsaid >= line / 2) {
                    mux.send(Kind::Read, 0, &(unsaid as u32).to_le_bytes());
                    unsaid = 0;
                }
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
