//! What a manifest wants, attached: files of the host as block devices, tap devices and sockets as net devices. Every wish is met,
//! and nothing is attached that nobody wants.

use crate::arguments::{Arguments, Net};
use crate::image::reason;
use crate::manifest::{Facts, Kind, Manifest, Wish};
use crate::Error;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const DEFAULT_BLOCK: u16 = 512;
const DEFAULT_MTU: u16 = 1500;

/// A device behind a descriptor; `index`: its place in the manifest.
pub struct Attached {
    pub index: usize,
    pub descriptor: OwnedFd,
    pub device: Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Block { capacity: u64, block_size: u16, writable: bool },
    Net,
}

/// Descriptors that whoever started us has left open for devices, by their names.
pub type Inherited = BTreeMap<String, OwnedFd>;

/// To be called before anything is opened: what is not open then is not what was meant.
pub fn inherit(arguments: &Arguments) -> Result<Inherited, Error> {
    let mut taken = Inherited::new();
    for (name, net) in &arguments.net {
        let Net::Descriptor(number) = net else { continue };
        let shown = format!("descriptor {number}");
        let failed = |why: &str| failed(name, OsStr::new(&shown), why);
        if taken.values().any(|other| other.as_raw_fd() == *number) {
            return failed("it is another device's already");
        }
        let Ok(descriptor) = skerry_platform::own::take_descriptor(*number) else { return failed("it is not open") };
        match rustix::fs::fstat(&descriptor).map(|facts| FileType::from_raw_mode(facts.st_mode)) {
            Ok(FileType::Socket | FileType::CharacterDevice) => {}
            _ => return failed("it is neither a socket nor a tap device"),
        }
        let flags = rustix::fs::fcntl_getfl(&descriptor);
        if flags.and_then(|flags| rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)).is_err() {
            return failed("it cannot be made not to block");
        }
        taken.insert(name.clone(), descriptor);
    }
    Ok(taken)
}

/// Attaches all that the manifest wants, and notes it there.
pub fn attach(manifest: &mut Manifest, arguments: &Arguments, mut inherited: Inherited) -> Result<Vec<Attached>, Error> {
    let kind_of = |name: &str| manifest.wishes.iter().find(|wish| wish.name == name).map(|wish| wish.kind);
    let block_options = arguments.block.keys().chain(&arguments.read_only).chain(arguments.block_size.keys());
    for (name, kind, what) in block_options
        .map(|name| (name, Kind::Block, "block"))
        .chain(arguments.net.keys().chain(arguments.mac.keys()).map(|name| (name, Kind::Net, "net")))
    {
        if kind_of(name) != Some(kind) {
            let wanted = manifest.wishes.iter().map(describe).collect::<Vec<_>>().join(", ");
            let wanted = if wanted.is_empty() { "no device".into() } else { wanted };
            return Err(Error::Device(format!("the image wants no {what} device '{name}': its manifest has {wanted}")));
        }
    }
    let mut attached = Vec::new();
    for wish in &mut manifest.wishes {
        let (descriptor, device, facts) = match wish.kind {
            Kind::Block => block(wish, arguments)?,
            Kind::Net => net(wish, arguments, &mut inherited)?,
        };
        wish.attach(facts, descriptor.as_raw_fd());
        attached.push(Attached { index: wish.index, descriptor, device });
    }
    Ok(attached)
}

fn describe(wish: &Wish) -> String {
    match wish.kind {
        Kind::Block => format!("the block device '{}'", wish.name),
        Kind::Net => format!("the net device '{}'", wish.name),
    }
}

fn failed<T>(name: &str, what: &OsStr, why: impl std::fmt::Display) -> Result<T, Error> {
    Err(Error::Device(format!("the device '{name}': {}: {why}", what.to_string_lossy())))
}

fn block(wish: &Wish, arguments: &Arguments) -> Result<(OwnedFd, Device, Facts), Error> {
    let name = wish.name.as_str();
    let Some(file) = arguments.block.get(name) else {
        return Err(Error::Device(format!("the manifest wants the block device '{name}': give --block {name}=FILE")));
    };
    let writable = !arguments.read_only.iter().any(|read_only| read_only == name);
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    // A FIFO is not waited for: it is refused.
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let descriptor = match rustix::fs::open(file, flags, Mode::empty()) {
        Ok(descriptor) => descriptor,
        Err(error) => return failed(name, file, reason(&error.into())),
    };
    match rustix::fs::fstat(&descriptor).map(|facts| FileType::from_raw_mode(facts.st_mode)) {
        Ok(FileType::RegularFile | FileType::BlockDevice) => {}
        _ => return failed(name, file, "it is neither a regular file nor a block device"),
    }
    let capacity = match rustix::fs::seek(&descriptor, SeekFrom::End(0)) {
        Ok(capacity) => capacity,
        Err(error) => return failed(name, file, reason(&error.into())),
    };
    let block_size = arguments.block_size.get(name).copied().unwrap_or(DEFAULT_BLOCK);
    if capacity == 0 || capacity % u64::from(block_size) != 0 {
        return failed(
            name,
            file,
            format!("its size is {capacity} bytes, which is not whole blocks of {block_size}, from one up"),
        );
    }
    Ok((descriptor, Device::Block { capacity, block_size, writable }, Facts::Block { capacity, block_size }))
}

fn net(wish: &Wish, arguments: &Arguments, inherited: &mut Inherited) -> Result<(OwnedFd, Device, Facts), Error> {
    let name = wish.name.as_str();
    let (descriptor, mtu) = match (arguments.net.get(name), inherited.remove(name)) {
        (Some(Net::Tap(interface)), _) => tap(name, interface)?,
        (_, Some(descriptor)) => (descriptor, DEFAULT_MTU),
        _ => {
            return Err(Error::Device(format!("the manifest wants the net device '{name}': give --net {name}=tap:INTERFACE")));
        }
    };
    let mac = match arguments.mac.get(name) {
        Some(mac) => *mac,
        None => random_address()?,
    };
    Ok((descriptor, Device::Net, Facts::Net { mac, mtu }))
}

fn tap(name: &str, interface: &str) -> Result<(OwnedFd, u16), Error> {
    let shown = OsStr::new(interface);
    let fact = |fact: &str| std::fs::read_to_string(format!("/sys/class/net/{interface}/{fact}"));
    // Opening one that does not exist would make it.
    if interface.contains('/') || interface.starts_with('.') {
        return failed(name, shown, "that is no name of an interface");
    }
    let Ok(flags) = fact("flags") else { return failed(name, shown, "there is no such interface") };
    let up = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 != 0);
    if !up {
        return failed(name, shown, format!("the interface is down: ip link set {interface} up"));
    }
    let mtu = fact("mtu").ok().and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(DEFAULT_MTU);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = match rustix::fs::open("/dev/net/tun", flags, Mode::empty()) {
        Ok(device) => device,
        Err(error) => return failed(name, OsStr::new("/dev/net/tun"), reason(&error.into())),
    };
    match skerry_platform::unikernel::attach_tap(device.as_fd(), interface) {
        Ok(()) => Ok((device, mtu)),
        Err(error) => failed(name, shown, format!("it cannot be attached: {}", reason(&error))),
    }
}

/// Of a single station, and locally administered.
fn random_address() -> Result<[u8; 6], Error> {
    let mut mac = [0; 6];
    rustix::rand::getrandom(&mut mac, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::host("no random address", error))?;
    mac[0] = mac[0] & 0xfe | 2;
    Ok(mac)
}
