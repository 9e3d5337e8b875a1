//! ioctl(2) on sockets: queue lengths, and the interface (netdevice(7)), of which there is one: lo.

use super::inet::interface;
use super::socket::Socket;
use crate::fs::file::OpenFile;
use crate::task::credentials::CAP_NET_ADMIN;
use crate::{Context, Errno, Result};
use skerry_abi::raw::{ioctl as linux, net};

/// `sizeof(struct ifreq)`.
const REQUEST_SIZE: usize = 40;
const NAME_SIZE: usize = 16;
const SIOCOUTQNSD: u32 = 0x894b;
const SIOCETHTOOL: u32 = 0x8946;

/// Serves `request`; ENOTTY where it is not a socket's.
pub fn ioctl(context: &mut Context, file: &OpenFile, socket: &dyn Socket, request: u32, argument: u64) -> Result<u64> {
    match request {
        linux::FIONREAD => {
            let available = socket.available()?;
            context.write(argument, &(available.min(i32::MAX as usize) as i32))?;
        }
        // SIOCOUTQ is TIOCOUTQ; SIOCOUTQNSD says the same where all is "sent" at once.
        linux::TIOCOUTQ | SIOCOUTQNSD => {
            let unsent = socket.unsent()?;
            context.write(argument, &(unsent.min(i32::MAX as usize) as i32))?;
        }
        linux::SIOCATMARK => context.write(argument, &i32::from(socket.is_at_urgent_mark()?))?,
        linux::FIOSETOWN | linux::SIOCSPGRP => {
            let owner: i32 = context.read(argument)?;
            file.owner.write().0 = owner;
        }
        linux::FIOGETOWN | linux::SIOCGPGRP => {
            let owner = file.owner.read().0;
            context.write(argument, &owner)?;
        }
        linux::SIOCGIFCONF => list_interfaces(context, socket, argument)?,
        linux::SIOCGIFNAME => {
            let mut bytes = [0; REQUEST_SIZE];
            context.read_bytes(argument, &mut bytes)?;
            let index = i32::from_ne_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
            if index != interface::INDEX as i32 || !socket.common().network.has_loopback() {
                return Err(Errno::ENODEV);
            }
            bytes[..NAME_SIZE].copy_from_slice(&name_field());
            context.write(argument, &bytes)?;
        }
        linux::SIOCGIFFLAGS
        | linux::SIOCGIFADDR
        | linux::SIOCGIFDSTADDR
        | linux::SIOCGIFBRDADDR
        | linux::SIOCGIFNETMASK
        | linux::SIOCGIFMETRIC
        | linux::SIOCGIFMTU
        | linux::SIOCGIFHWADDR
        | linux::SIOCGIFINDEX
        | linux::SIOCGIFTXQLEN
        | linux::SIOCGIFMAP => describe_interface(context, socket, request, argument)?,
        linux::SIOCSIFFLAGS
        | linux::SIOCSIFADDR
        | linux::SIOCSIFDSTADDR
        | linux::SIOCSIFBRDADDR
        | linux::SIOCSIFNETMASK
        | linux::SIOCSIFMETRIC
        | linux::SIOCSIFMTU
        | linux::SIOCSIFHWADDR
        | linux::SIOCSIFNAME
        | linux::SIOCSIFTXQLEN
        | linux::SIOCADDRT
        | linux::SIOCDELRT
        | linux::SIOCSARP
        | linux::SIOCDARP => change_interface(context, socket, request, argument)?,
        linux::SIOCGARP => return Err(Errno::ENXIO),
        // No timestamp has been taken.
        net::SIOCGSTAMP_OLD | net::SIOCGSTAMPNS_OLD => return Err(Errno::ENOENT),
        // Drivers' own requests (ethtool, wireless): lo has none.
        SIOCETHTOOL | 0x8b00..=0x8bff => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn name_field() -> [u8; NAME_SIZE] {
    let mut field = [0; NAME_SIZE];
    field[..2].copy_from_slice(b"lo");
    field
}

/// ENODEV where the request does not name lo.
fn check_name(socket: &dyn Socket, request: &[u8; REQUEST_SIZE]) -> Result<()> {
    let name = request[..NAME_SIZE].split(|&byte| byte == 0).next().unwrap_or_default();
    // "lo:1" and the like are addresses of lo's in netdevice(7)'s old way.
    let device = name.split(|&byte| byte == b':').next().unwrap_or_default();
    if device == b"lo" && socket.common().network.has_loopback() {
        Ok(())
    } else {
        Err(Errno::ENODEV)
    }
}

fn internet_address(octets: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(net::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&octets);
    bytes
}

fn describe_interface(context: &Context, socket: &dyn Socket, request: u32, argument: u64) -> Result<()> {
    let mut bytes = [0; REQUEST_SIZE];
    context.read_bytes(argument, &mut bytes)?;
    check_name(socket, &bytes)?;
    let mut value = [0u8; REQUEST_SIZE - NAME_SIZE];
    match request {
        linux::SIOCGIFFLAGS => value[..2].copy_from_slice(&(interface::FLAGS as u16).to_ne_bytes()),
        linux::SIOCGIFADDR | linux::SIOCGIFDSTADDR => value[..16].copy_from_slice(&internet_address([127, 0, 0, 1])),
        linux::SIOCGIFBRDADDR => value[..16].copy_from_slice(&internet_address([0; 4])),
        linux::SIOCGIFNETMASK => value[..16].copy_from_slice(&internet_address([255, 0, 0, 0])),
        linux::SIOCGIFMTU => value[..4].copy_from_slice(&(interface::MTU as i32).to_ne_bytes()),
        linux::SIOCGIFHWADDR => value[..2].copy_from_slice(&interface::HARDWARE_TYPE.to_ne_bytes()),
        linux::SIOCGIFINDEX => value[..4].copy_from_slice(&(interface::INDEX as i32).to_ne_bytes()),
        linux::SIOCGIFTXQLEN => value[..4].copy_from_slice(&1000i32.to_ne_bytes()),
        // SIOCGIFMETRIC, SIOCGIFMAP: all zero.
        _ => {}
    }
    bytes[NAME_SIZE..].copy_from_slice(&value);
    context.write(argument, &bytes)
}

/// lo is as it is: what changes nothing succeeds, so that `ip link set lo up` and `ifconfig lo 127.0.0.1 up` do.
fn change_interface(context: &Context, socket: &dyn Socket, request: u32, argument: u64) -> Result<()> {
    if !context.task.credentials().has_capability(CAP_NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let mut bytes = [0; REQUEST_SIZE];
    context.read_bytes(argument, &mut bytes)?;
    if matches!(request, linux::SIOCADDRT | linux::SIOCDELRT | linux::SIOCSARP | linux::SIOCDARP) {
        return Err(Errno::EPERM);
    }
    check_name(socket, &bytes)?;
    let value = &bytes[NAME_SIZE..];
    let unchanged = match request {
        linux::SIOCSIFFLAGS => u32::from(u16::from_ne_bytes([value[0], value[1]])) & interface::FLAG_UP != 0,
        linux::SIOCSIFADDR => value[4..8] == [127, 0, 0, 1],
        linux::SIOCSIFNETMASK => value[4..8] == [255, 0, 0, 0],
        linux::SIOCSIFMTU => value[..4] == (interface::MTU as i32).to_ne_bytes(),
        _ => false,
    };
    if unchanged {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// SIOCGIFCONF: `struct ifconf`, and the addresses (IPv4 only) behind it.
fn list_interfaces(context: &Context, socket: &dyn Socket, argument: u64) -> Result<()> {
    let length: i32 = context.read(argument)?;
    let buffer: u64 = context.read(argument.checked_add(8).ok_or(Errno::EFAULT)?)?;
    let present = if socket.common().network.has_loopback() { REQUEST_SIZE } else { 0 };
    let written = if buffer == 0 {
        present
    } else if length < 0 {
        return Err(Errno::EINVAL);
    } else if present > 0 && length as usize >= REQUEST_SIZE {
        let mut bytes = [0u8; REQUEST_SIZE];
        bytes[..NAME_SIZE].copy_from_slice(&name_field());
        bytes[NAME_SIZE..NAME_SIZE + 16].copy_from_slice(&internet_address([127, 0, 0, 1]));
        context.write(buffer, &bytes)?;
        REQUEST_SIZE
    } else {
        0
    };
    context.write(argument, &(written as i32))
}
