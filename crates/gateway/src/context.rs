//! What every part of the gateway works with.

use crate::line::Output;
use crate::policy::Policy;
use crate::report::Reports;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::rand::{getrandom, GetRandomFlags};
use smoltcp::time::Instant;
use std::os::fd::{AsFd, OwnedFd};

pub struct Context {
    pub epoll: OwnedFd,
    pub out: Output,
    pub policy: Policy,
    pub reports: Reports,
    /// Since the gateway's start.
    pub now: Instant,
}

/// Whose descriptor has something; the number is never given twice, so that an event cannot be somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Guest,
    Tcp(u64),
    Udp(u64),
    Dns(u64),
    Echo(u64),
}

const KIND: u32 = 60;
const NUMBER: u64 = (1 << KIND) - 1;

impl Source {
    pub fn pack(self) -> u64 {
        let (kind, number) = match self {
            Source::Guest => (0, 0),
            Source::Tcp(number) => (1, number),
            Source::Udp(number) => (2, number),
            Source::Dns(number) => (3, number),
            Source::Echo(number) => (4, number),
        };
        kind << KIND | number & NUMBER
    }

    pub fn unpack(data: u64) -> Option<Source> {
        let number = data & NUMBER;
        match data >> KIND {
            0 => Some(Source::Guest),
            1 => Some(Source::Tcp(number)),
            2 => Some(Source::Udp(number)),
            3 => Some(Source::Dns(number)),
            4 => Some(Source::Echo(number)),
            _ => None,
        }
    }
}

impl Context {
    /// A descriptor is watched until it is closed.
    pub fn watch(&self, descriptor: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(source.pack()), flags)
    }

    pub fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Cannot fail once the host has started.
        let _ = getrandom(&mut bytes, GetRandomFlags::empty());
        u64::from_ne_bytes(bytes)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::Routes;

    /// One whose guest has this policy.
    pub fn context(config: &str) -> Context {
        let policy = Policy::new(Config::parse(config.as_bytes()).unwrap(), Routes::open().unwrap());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let now = Instant::ZERO;
        Context { epoll, out: Output::default(), policy, reports: Reports::new(now), now }
    }

    #[test]
    fn sources_are_told_apart() {
        for source in [Source::Guest, Source::Tcp(0), Source::Udp(7), Source::Dns(NUMBER), Source::Echo(1)] {
            assert_eq!(Source::unpack(source.pack()), Some(source));
        }
        assert_eq!(Source::unpack(5 << KIND), None);
    }
}
