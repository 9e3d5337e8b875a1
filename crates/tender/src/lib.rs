//! `skerry-tender`: loads a unikernel, gives it the devices that its manifest names, and goes on in it behind a filter of at most
//! nine system calls. The ABI is Solo5's spt, version 2 (docs/engines/unikernel.md has what it says); images for Solo5's hvt are
//! the guests of a machine of KVM's (`hvt`).
//!
//! Parts: `arguments` (the command line), `image` (an ELF file, hostile, becomes a checked plan of what to load), `manifest` (the
//! devices that it wants), `devices` (files and tap devices that are attached), `filter` (what it may ask of the host), `probe` (the
//! smallest unikernel there is: does this host run any?). The jump itself is `skerry_platform::unikernel`.
#![forbid(unsafe_code)]

mod arguments;
mod devices;
mod filter;
#[cfg(test)]
mod fuzz_tests;
mod hvt;
mod image;
mod manifest;
mod probe;

use arguments::{Arguments, Wanted};
use devices::{Attached, Device};
use image::{Image, Target};
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};
use rustix::time::{timerfd_create, TimerfdClockId, TimerfdFlags};
use skerry_platform::unikernel::{GuestMemory, MEMORY_BASE};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;

/// The tender's own failure; an image that cannot be run; one that is not there.
const FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const USAGE: u8 = 2;

/// Where the boot information lies; behind it the manifest, then the command line.
const BOOT_INFORMATION: u64 = MEMORY_BASE + 0x1000;
const BOOT_INFORMATION_SIZE: usize = 40;
/// With its zero byte at the end.
const COMMAND_LINE_SIZE: usize = 8192;
/// What epoll tells of the timer, where it tells the manifest's index of a device.
const TIMER_DATA: u64 = 0xffff_fffe;

/// Why a unikernel does not run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {why}")]
    NotFound { path: String, why: String },
    #[error("{path}: {why}")]
    Image { path: String, why: image::Error },
    #[error("{0}")]
    Device(String),
    #[error("{0}")]
    Host(String),
}

impl Error {
    fn status(&self) -> u8 {
        match self {
            Error::Usage(_) => USAGE,
            Error::NotFound { .. } => NOT_FOUND,
            Error::Image { .. } => NOT_EXECUTABLE,
            Error::Device(_) | Error::Host(_) => FAILURE,
        }
    }

    fn host(what: &str, error: impl std::fmt::Display) -> Error {
        Error::Host(format!("{what}: {error}"))
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let outcome = Arguments::parse(std::env::args_os().skip(1)).and_then(|wanted| match wanted {
        Wanted::Help => {
            println!("{}", arguments::USAGE);
            Ok(())
        }
        Wanted::Version => {
            println!("skerry-tender {} (Solo5 spt and hvt, ABI version {})", env!("CARGO_PKG_VERSION"), image::ABI_VERSION);
            Ok(())
        }
        Wanted::Probe(target) => Err(probe::run(target)),
        Wanted::Run(arguments) => Err(run(&arguments)),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skerry-tender: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Returns only where the unikernel cannot be entered.
fn run(arguments: &Arguments) -> Error {
    match prepare(arguments) {
        Err(error) => error,
        Ok(ready) => ready.enter(),
    }
}

/// A unikernel that is loaded, by who runs it.
enum Loaded {
    Spt(Ready),
    Hvt(hvt::Ready),
}

/// What a unikernel is made of.
struct Parts<'a, Source: ?Sized> {
    file: &'a Source,
    image: &'a Image,
    attached: Vec<Attached>,
    memory_size: u64,
    command_line: &'a [u8],
}

impl Loaded {
    fn load(parts: Parts<'_, impl image::Source + ?Sized>) -> Result<Loaded, Loading> {
        match parts.image.target {
            Target::Spt => Ready::load(parts).map(Loaded::Spt),
            Target::Hvt => hvt::Ready::load(parts).map(Loaded::Hvt),
        }
    }

    /// Returns only where it cannot be entered.
    fn enter(self) -> Error {
        match self {
            Loaded::Spt(ready) => ready.enter(),
            Loaded::Hvt(ready) => ready.enter(),
        }
    }
}

fn prepare(arguments: &Arguments) -> Result<Loaded, Error> {
    let inherited = devices::inherit(arguments)?;
    let path = &arguments.image;
    let shown = path.to_string_lossy().into_owned();
    // A FIFO is not waited for: it is refused below.
    let wanted = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, wanted, Mode::empty()).map(File::from).map_err(io::Error::from);
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: shown.clone(), why: "there is no such image".into() },
        _ => Error::Image { path: shown.clone(), why: image::Error::Unreadable(image::reason(&error)) },
    })?;
    let bad = |why| Error::Image { path: shown.clone(), why };
    if !file.metadata().is_ok_and(|facts| facts.is_file()) {
        return Err(bad(image::Error::Unreadable("it is no regular file".into())));
    }
    let mut image = Image::parse(&file).map_err(bad)?;
    let attached = devices::attach(&mut image.manifest, arguments, inherited)?;
    let command_line = &arguments.command_line()?;
    let parts = Parts { file: &file, image: &image, attached, memory_size: arguments.memory, command_line };
    Loaded::load(parts).map_err(|error| match error {
        Loading::Image(why) => bad(why),
        Loading::Host(error) => error,
    })
}

enum Loading {
    Image(image::Error),
    Host(Error),
}

/// A unikernel for spt that is loaded: only the way in is left.
struct Ready {
    memory: GuestMemory,
    parts: Vec<image::Part>,
    entry: u64,
    /// What stays open besides standard output.
    epoll: OwnedFd,
    timer: OwnedFd,
    attached: Vec<Attached>,
}

impl Ready {
    fn load(parts: Parts<'_, impl image::Source + ?Sized>) -> Result<Ready, Loading> {
        let Parts { file, image, attached, memory_size, command_line } = parts;
        image.fits(memory_size).map_err(Loading::Image)?;
        let mut memory = map(memory_size).map_err(Loading::Host)?;
        image.load(file, &mut memory).map_err(Loading::Image)?;
        let host = |what: &'static str| move |error: rustix::io::Errno| Loading::Host(Error::host(what, error));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host("epoll"))?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(host("timerfd"))?;
        let data = epoll::EventData::new_u64;
        epoll::add(&epoll, &timer, data(TIMER_DATA), epoll::EventFlags::IN).map_err(host("epoll"))?;
        for one in &attached {
            if matches!(one.device, Device::Net) {
                let index = data(one.index as u64);
                epoll::add(&epoll, &one.descriptor, index, epoll::EventFlags::IN)
                    .map_err(host("a net device cannot be polled"))?;
            }
        }
        write_boot_information(&mut memory, image, command_line, epoll.as_raw_fd(), timer.as_raw_fd());
        Ok(Ready { memory, parts: image.parts.clone(), entry: image.entry, epoll, timer, attached })
    }

    /// Drops all that is not the unikernel's, and goes.
    fn enter(self) -> Error {
        let memory = match self.memory.protect(&self.parts.iter().map(image::Part::protected).collect::<Vec<_>>()) {
            Ok(memory) => memory,
            Err(error) => return Error::host("the memory cannot be protected", error),
        };
        if let Err(error) = drop_privileges() {
            return Error::host("privileges cannot be dropped", error);
        }
        let (epoll, timer) = (self.epoll.as_raw_fd(), self.timer.as_raw_fd());
        let filter = filter::for_spt(epoll, timer, &self.attached);
        // Standard error is for what may still go wrong; the unikernel's console is standard output.
        let devices = self.attached.iter().map(|one| one.descriptor.as_raw_fd());
        skerry_platform::foreground::close_all_but(devices.chain([1, 2, epoll, timer]));
        let error = memory.enter(&filter, self.entry, BOOT_INFORMATION);
        Error::host("the filter of system calls", error)
    }
}

fn map(size: u64) -> Result<GuestMemory, Error> {
    GuestMemory::map(size).map_err(|error| {
        let lowest: Option<u64> =
            std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").ok().and_then(|text| text.trim().parse().ok());
        match (error.raw_os_error(), lowest) {
            (Some(libc::EPERM | libc::EACCES), Some(lowest)) if lowest > MEMORY_BASE => Error::Host(format!(
                "this host lets nobody map memory below {lowest:#x}, and a unikernel's begins at {MEMORY_BASE:#x}: \
                 sysctl vm.mmap_min_addr={MEMORY_BASE}"
            )),
            (Some(libc::EEXIST), _) => {
                Error::Host(format!("{size} bytes of memory at {MEMORY_BASE:#x} would lie over the tender's own; ask for less"))
            }
            (Some(libc::ENOMEM), _) => Error::Host(format!("{size} bytes of memory cannot be had here; ask for less")),
            _ => Error::host(&format!("{size} bytes of memory at {MEMORY_BASE:#x} cannot be had"), error),
        }
    })
}

fn write_boot_information(memory: &mut GuestMemory, image: &Image, command_line: &[u8], epoll: i32, timer: i32) {
    let manifest = image.manifest.bytes();
    let manifest_at = BOOT_INFORMATION + BOOT_INFORMATION_SIZE as u64;
    let command_line_at = manifest_at + manifest.len() as u64;
    let mut bytes = Vec::with_capacity(BOOT_INFORMATION_SIZE + manifest.len() + command_line.len() + 1);
    for word in [memory.size(), image.end, command_line_at, manifest_at] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(epoll.to_le_bytes());
    bytes.extend(timer.to_le_bytes());
    bytes.extend(manifest);
    bytes.extend(command_line); // and zeros behind it: the memory is new
                                // All of it is below the first address of an image, which has been checked to be inside.
    if let Some(place) = memory.bytes(BOOT_INFORMATION..BOOT_INFORMATION + bytes.len() as u64) {
        place.copy_from_slice(&bytes);
    }
}

/// Nothing that the unikernel could use of who started us.
fn drop_privileges() -> Result<(), rustix::io::Errno> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    let _ = rustix::thread::clear_ambient_capability_set();
    let nothing = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing })?;
    rustix::thread::set_no_new_privs(true)
}
