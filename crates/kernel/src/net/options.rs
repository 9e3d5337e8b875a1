//! Options of level SOL_SOCKET (socket(7)), which all sockets have.

use super::socket::{Caller, Shutdown, Socket, SocketType, UserCredentials};
use crate::task::credentials::{CAP_NET_ADMIN, CAP_NET_RAW};
use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use skerry_abi::structs::TimeVal;
use std::collections::BTreeMap;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// net.core.wmem_default and rmem_default, doubled as SO_SNDBUF shows them.
const DEFAULT_BUFFER: usize = 212_992;
/// net.core.wmem_max and rmem_max.
const MAXIMUM_BUFFER: usize = 212_992;
const MINIMUM_SEND_BUFFER: usize = 4608;
const MINIMUM_RECEIVE_BUFFER: usize = 2304;
/// What TCP's own tuning reaches over loopback.
const TCP_SEND_BUFFER: usize = 2_626_560;
const TCP_RECEIVE_BUFFER: usize = 131_072;
/// Kept options that only have to be remembered, per socket (a guest cannot make it grow: names are checked first).
type Kept = BTreeMap<(u32, u32), Vec<u8>>;

/// The values.
#[derive(Clone)]
pub struct Options {
    pub send_buffer: usize,
    pub receive_buffer: usize,
    pub send_timeout: Option<Duration>,
    pub receive_timeout: Option<Duration>,
    pub receive_low_water: i32,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub keep_alive: bool,
    pub broadcast: bool,
    pub out_of_band_inline: bool,
    pub pass_credentials: bool,
    /// (on, seconds).
    pub linger: (bool, i32),
    pub timestamp: Timestamp,
    /// SO_PEEK_OFF; -1 = off.
    pub peek_offset: i32,
    pub priority: i32,
    /// Values that are kept and shown, and change nothing inside a sandbox.
    pub kept: Kept,
}

/// SO_TIMESTAMP and SO_TIMESTAMPNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamp {
    Off,
    Microseconds,
    Nanoseconds,
}

impl Options {
    /// SO_RCVTIMEO, SO_SNDTIMEO.
    pub fn has_timeouts(&self) -> bool {
        self.receive_timeout.is_some() || self.send_timeout.is_some()
    }

    pub fn new(domain: u32, kind: SocketType) -> Options {
        let tcp = domain != linux::AF_UNIX && kind == SocketType::Stream;
        Options {
            send_buffer: if tcp { TCP_SEND_BUFFER } else { DEFAULT_BUFFER },
            receive_buffer: if tcp { TCP_RECEIVE_BUFFER } else { DEFAULT_BUFFER },
            send_timeout: None,
            receive_timeout: None,
            receive_low_water: 1,
            reuse_address: false,
            reuse_port: false,
            keep_alive: false,
            broadcast: false,
            out_of_band_inline: false,
            pass_credentials: false,
            linger: (false, 0),
            timestamp: Timestamp::Off,
            peek_offset: -1,
            priority: 0,
            kept: Kept::new(),
        }
    }

    pub fn kept_integer(&self, level: u32, name: u32) -> Option<i32> {
        self.kept.get(&(level, name)).and_then(|value| integer(value).ok())
    }

    pub fn keep_integer(&mut self, level: u32, name: u32, value: i32) {
        self.kept.insert((level, name), value.to_ne_bytes().to_vec());
    }
}

/// The `int` that most options take; EINVAL where the value is shorter.
pub fn integer(value: &[u8]) -> Result<i32> {
    value.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes).ok_or(Errno::EINVAL)
}

fn timeout(value: &[u8]) -> Result<Option<Duration>> {
    let time = TimeVal::read_from_prefix(value).map_err(|_| Errno::EINVAL)?.0;
    if !(0..1_000_000).contains(&time.usec) {
        return Err(Errno::EDOM);
    }
    if time.sec < 0 {
        // As Linux has it: a negative time is no time at all.
        return Ok(Some(Duration::ZERO));
    }
    if time.sec == 0 && time.usec == 0 {
        return Ok(None);
    }
    Ok(Some(Duration::new(time.sec as u64, time.usec as u32 * 1000)))
}

fn timeout_value(timeout: Option<Duration>) -> Vec<u8> {
    let time = timeout
        .map_or(TimeVal::default(), |timeout| TimeVal { sec: timeout.as_secs() as i64, usec: timeout.subsec_micros().into() });
    time.as_bytes().to_vec()
}

/// setsockopt(2) of level SOL_SOCKET.
pub fn set(socket: &dyn Socket, caller: &Caller, name: u32, value: &[u8]) -> Result<()> {
    let common = socket.common();
    if name == linux::SO_BINDTODEVICE {
        let device = value.split(|&byte| byte == 0).next().unwrap_or_default();
        return match device {
            b"" | b"lo" => Ok(()),
            _ => Err(Errno::ENODEV),
        };
    }
    if name == linux::SO_ATTACH_FILTER || name == linux::SO_ATTACH_BPF || name == linux::SO_ATTACH_REUSEPORT_CBPF {
        // Packet filters are not run here: refused, as where the kernel has none.
        return Err(Errno::ENOPROTOOPT);
    }
    if name == linux::SO_LINGER {
        let (on, seconds) = (integer(value)?, integer(value.get(4..).unwrap_or_default())?);
        common.options.lock().linger = (on != 0, seconds);
        return Ok(());
    }
    if matches!(name, linux::SO_RCVTIMEO_OLD | linux::SO_RCVTIMEO_NEW) {
        let timeout = timeout(value)?;
        common.options.lock().receive_timeout = timeout;
        return Ok(());
    }
    if matches!(name, linux::SO_SNDTIMEO_OLD | linux::SO_SNDTIMEO_NEW) {
        let timeout = timeout(value)?;
        common.options.lock().send_timeout = timeout;
        return Ok(());
    }
    let number = integer(value)?;
    let on = number != 0;
    let mut options = common.options.lock();
    match name {
        linux::SO_REUSEADDR => {
            options.reuse_address = on;
            drop(options);
            socket.sharing_changed();
        }
        linux::SO_REUSEPORT => {
            if common.domain() == linux::AF_UNIX && on {
                return Err(Errno::EOPNOTSUPP);
            }
            options.reuse_port = on;
            drop(options);
            socket.sharing_changed();
        }
        linux::SO_KEEPALIVE => options.keep_alive = on,
        linux::SO_BROADCAST => options.broadcast = on,
        linux::SO_OOBINLINE => {
            options.out_of_band_inline = on;
            drop(options);
            socket.inline_changed();
        }
        linux::SO_PASSCRED => {
            if common.domain() != linux::AF_UNIX && common.domain() != linux::AF_NETLINK {
                return Err(Errno::EOPNOTSUPP);
            }
            options.pass_credentials = on;
        }
        linux::SO_SNDBUF | linux::SO_SNDBUFFORCE | linux::SO_RCVBUF | linux::SO_RCVBUFFORCE => {
            if matches!(name, linux::SO_SNDBUFFORCE | linux::SO_RCVBUFFORCE)
                && !caller.credentials.has_capability(CAP_NET_ADMIN)
            {
                return Err(Errno::EPERM);
            }
            // The value is doubled, as socket(7) says.
            let size = usize::try_from(number).unwrap_or(0).min(MAXIMUM_BUFFER) * 2;
            if matches!(name, linux::SO_SNDBUF | linux::SO_SNDBUFFORCE) {
                options.send_buffer = size.max(MINIMUM_SEND_BUFFER);
            } else {
                options.receive_buffer = size.max(MINIMUM_RECEIVE_BUFFER);
            }
            drop(options);
            socket.buffers_changed();
        }
        linux::SO_RCVLOWAT => {
            options.receive_low_water = if number <= 0 {
                if number < 0 {
                    i32::MAX
                } else {
                    1
                }
            } else {
                number
            }
        }
        linux::SO_TIMESTAMP_OLD | linux::SO_TIMESTAMP_NEW => {
            options.timestamp = if on { Timestamp::Microseconds } else { Timestamp::Off };
        }
        linux::SO_TIMESTAMPNS_OLD | linux::SO_TIMESTAMPNS_NEW => {
            options.timestamp = if on { Timestamp::Nanoseconds } else { Timestamp::Off };
        }
        linux::SO_PEEK_OFF => {
            if common.domain() != linux::AF_UNIX {
                return Err(Errno::EOPNOTSUPP);
            }
            options.peek_offset = number.max(-1);
        }
        linux::SO_PRIORITY => {
            if !(0..=6).contains(&number) && !caller.credentials.has_capability(CAP_NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            options.priority = number;
        }
        linux::SO_MARK => {
            if !caller.credentials.has_capability(CAP_NET_ADMIN) && !caller.credentials.has_capability(CAP_NET_RAW) {
                return Err(Errno::EPERM);
            }
            options.keep_integer(linux::SOL_SOCKET, name, number);
        }
        linux::SO_DEBUG => {
            if on && !caller.credentials.has_capability(CAP_NET_ADMIN) {
                return Err(Errno::EACCES);
            }
            options.keep_integer(linux::SOL_SOCKET, name, number);
        }
        linux::SO_ZEROCOPY => {
            // MSG_ZEROCOPY is not served.
            return Err(Errno::EOPNOTSUPP);
        }
        linux::SO_DONTROUTE
        | linux::SO_NO_CHECK
        | linux::SO_BSDCOMPAT
        | linux::SO_PASSSEC
        | linux::SO_RXQ_OVFL
        | linux::SO_WIFI_STATUS
        | linux::SO_BUSY_POLL
        | linux::SO_PREFER_BUSY_POLL
        | linux::SO_BUSY_POLL_BUDGET
        | linux::SO_MAX_PACING_RATE
        | linux::SO_INCOMING_CPU
        | linux::SO_TIMESTAMPING_OLD
        | linux::SO_TIMESTAMPING_NEW
        | linux::SO_TXREHASH
        | linux::SO_BINDTOIFINDEX
        | linux::SO_SELECT_ERR_QUEUE
        | linux::SO_PASSPIDFD => options.keep_integer(linux::SOL_SOCKET, name, number),
        linux::SO_DETACH_FILTER => return Err(Errno::ENOENT),
        linux::SO_TYPE
        | linux::SO_ERROR
        | linux::SO_PROTOCOL
        | linux::SO_DOMAIN
        | linux::SO_ACCEPTCONN
        | linux::SO_SNDLOWAT => {
            return Err(Errno::ENOPROTOOPT);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// getsockopt(2) of level SOL_SOCKET; `length` is what the caller has room for. ERANGE where SO_PEERGROUPS needs more.
pub fn get(socket: &dyn Socket, name: u32, length: usize) -> Result<Vec<u8>> {
    let common = socket.common();
    match name {
        linux::SO_PEERCRED => {
            let user = socket.peer_identity().map_or(UserCredentials::NOBODY, |peer| peer.user);
            return Ok(user.as_bytes().to_vec());
        }
        linux::SO_PEERGROUPS => {
            let groups = socket.peer_identity().ok_or(Errno::ENODATA)?.groups;
            if length < groups.len() * 4 {
                return Err(Errno::ERANGE);
            }
            return Ok(groups.as_bytes().to_vec());
        }
        _ => {}
    }
    let options = common.options.lock();
    let number = match name {
        linux::SO_TYPE => common.kind as i32,
        linux::SO_DOMAIN => common.domain() as i32,
        linux::SO_PROTOCOL => common.protocol as i32,
        linux::SO_ERROR => {
            drop(options);
            socket.take_error().map_or(0, |error| error.0)
        }
        linux::SO_ACCEPTCONN => {
            drop(options);
            socket.is_listening().into()
        }
        linux::SO_REUSEADDR => options.reuse_address.into(),
        linux::SO_REUSEPORT => options.reuse_port.into(),
        linux::SO_KEEPALIVE => options.keep_alive.into(),
        linux::SO_BROADCAST => options.broadcast.into(),
        linux::SO_OOBINLINE => options.out_of_band_inline.into(),
        linux::SO_PASSCRED => options.pass_credentials.into(),
        linux::SO_SNDBUF => options.send_buffer as i32,
        linux::SO_RCVBUF => options.receive_buffer as i32,
        linux::SO_RCVLOWAT => options.receive_low_water,
        linux::SO_SNDLOWAT => 1,
        linux::SO_TIMESTAMP_OLD | linux::SO_TIMESTAMP_NEW => (options.timestamp == Timestamp::Microseconds).into(),
        linux::SO_TIMESTAMPNS_OLD | linux::SO_TIMESTAMPNS_NEW => (options.timestamp == Timestamp::Nanoseconds).into(),
        linux::SO_PEEK_OFF => {
            if common.domain() != linux::AF_UNIX {
                return Err(Errno::EOPNOTSUPP);
            }
            options.peek_offset
        }
        linux::SO_PRIORITY => options.priority,
        linux::SO_LINGER => {
            let mut value = i32::from(options.linger.0).to_ne_bytes().to_vec();
            value.extend(options.linger.1.to_ne_bytes());
            return Ok(value);
        }
        linux::SO_RCVTIMEO_OLD | linux::SO_RCVTIMEO_NEW => return Ok(timeout_value(options.receive_timeout)),
        linux::SO_SNDTIMEO_OLD | linux::SO_SNDTIMEO_NEW => return Ok(timeout_value(options.send_timeout)),
        linux::SO_BINDTODEVICE => return Ok(Vec::new()),
        linux::SO_GET_FILTER => return Ok(Vec::new()),
        linux::SO_COOKIE => {
            if length < 8 {
                return Err(Errno::EINVAL);
            }
            return Ok(common.inode.to_ne_bytes().to_vec());
        }
        linux::SO_NETNS_COOKIE => {
            if length != 8 {
                return Err(Errno::EINVAL);
            }
            return Ok(1u64.to_ne_bytes().to_vec());
        }
        linux::SO_MEMINFO => {
            let (receive, send) = (options.receive_buffer as u32, options.send_buffer as u32);
            drop(options);
            let used = socket.available().unwrap_or(0) as u32;
            let mut value = Vec::new();
            // SK_MEMINFO_*: rmem_alloc, rcvbuf, wmem_alloc, sndbuf, fwd_alloc, wmem_queued, optmem, backlog, drops.
            for word in [used, receive, 0, send, 0, 0, 0, 0, 0] {
                value.extend(word.to_ne_bytes());
            }
            return Ok(value);
        }
        linux::SO_DEBUG
        | linux::SO_DONTROUTE
        | linux::SO_NO_CHECK
        | linux::SO_BSDCOMPAT
        | linux::SO_PASSSEC
        | linux::SO_MARK
        | linux::SO_RXQ_OVFL
        | linux::SO_WIFI_STATUS
        | linux::SO_LOCK_FILTER
        | linux::SO_BUSY_POLL
        | linux::SO_PREFER_BUSY_POLL
        | linux::SO_TIMESTAMPING_OLD
        | linux::SO_TIMESTAMPING_NEW
        | linux::SO_ZEROCOPY
        | linux::SO_TXREHASH
        | linux::SO_BINDTOIFINDEX
        | linux::SO_SELECT_ERR_QUEUE
        | linux::SO_INCOMING_NAPI_ID
        | linux::SO_PASSPIDFD => options.kept_integer(linux::SOL_SOCKET, name).unwrap_or(0),
        linux::SO_MAX_PACING_RATE | linux::SO_INCOMING_CPU => options.kept_integer(linux::SOL_SOCKET, name).unwrap_or(-1),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    Ok(number.to_ne_bytes().to_vec())
}

/// shutdown(2)'s argument; EINVAL.
pub fn shutdown_from(how: i32) -> Result<Shutdown> {
    match how {
        0 => Ok(Shutdown::Read),
        1 => Ok(Shutdown::Write),
        2 => Ok(Shutdown::Both),
        _ => Err(Errno::EINVAL),
    }
}
