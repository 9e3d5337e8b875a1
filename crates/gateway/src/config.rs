//! What we are told at the start: one JSON object, checked.

use crate::dns::Pattern;
use serde::Deserialize;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the object.
const LONGEST: u64 = 1 << 20;
/// The most ports that one range names, as in the policy.
const MOST_PORTS: u16 = 1024;
const MOST_RESOLVERS: usize = 8;
const MTU: u16 = 1500;
/// What IPv6 asks for.
const LEAST_MTU: u16 = 1280;
/// What virtio's cards and QEMU take.
const MOST_MTU: u16 = 65520;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration cannot be read: {0}")]
    Read(std::io::Error),
    #[error("the configuration is longer than {LONGEST} bytes")]
    Long,
    #[error("the configuration: {0}")]
    Shape(serde_json::Error),
    #[error("{key}[{index}]: {value:?} {why}")]
    Value { key: &'static str, index: usize, value: String, why: &'static str },
    #[error("resolvers: there are {0}, and at most {MOST_RESOLVERS} are asked")]
    Resolvers(usize),
    #[error("hosts: no names are kept here yet; leave it empty")]
    Hosts,
    #[error("mtu: {0} is not from {LEAST_MTU} to {MOST_MTU}")]
    Mtu(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Ports of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub transport: Transport,
    pub first: u16,
    pub last: u16,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub bits: u8,
}

/// `None`: not restricted.
#[derive(Debug)]
pub struct Config {
    pub addresses: Option<Vec<Network>>,
    pub connect: Option<Vec<Ports>>,
    pub domains: Option<Vec<Pattern>>,
    pub resolvers: Vec<IpAddr>,
    /// Of the guest's link.
    pub mtu: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    addresses: Option<Vec<String>>,
    connect: Option<Vec<String>>,
    domains: Option<Vec<String>>,
    #[serde(default)]
    resolvers: Vec<String>,
    #[serde(default)]
    hosts: std::collections::BTreeMap<String, serde_json::Value>,
    #[serde(default = "usual_mtu")]
    mtu: u16,
}

fn usual_mtu() -> u16 {
    MTU
}

impl Config {
    /// Reads it to its end.
    pub fn read(source: impl Read) -> Result<Config, Error> {
        let mut bytes = Vec::new();
        source.take(LONGEST + 1).read_to_end(&mut bytes).map_err(Error::Read)?;
        if bytes.len() as u64 > LONGEST {
            return Err(Error::Long);
        }
        Config::parse(&bytes)
    }

    pub fn parse(bytes: &[u8]) -> Result<Config, Error> {
        let written: Written = serde_json::from_slice(bytes).map_err(Error::Shape)?;
        if !written.hosts.is_empty() {
            return Err(Error::Hosts);
        }
        if !(LEAST_MTU..=MOST_MTU).contains(&written.mtu) {
            return Err(Error::Mtu(written.mtu));
        }
        if written.resolvers.len() > MOST_RESOLVERS {
            return Err(Error::Resolvers(written.resolvers.len()));
        }
        let network = "is no address or network, as in 10.0.0.0/8";
        let endpoint = "is no endpoint: tcp:PORT, udp:PORT or tcp:FIRST-LAST, the lower one first, at most 1024 at once";
        let domain = "is no domain: example.org, or *.example.org for all below it";
        Ok(Config {
            addresses: each("addresses", written.addresses, network, Network::parse)?,
            connect: each("connect", written.connect, endpoint, Ports::parse)?,
            domains: each("domains", written.domains, domain, Pattern::parse)?,
            resolvers: all("resolvers", written.resolvers, "is no address", |text| text.parse().ok())?,
            mtu: written.mtu,
        })
    }
}

fn each<T>(
    key: &'static str,
    values: Option<Vec<String>>,
    why: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, Error> {
    values.map(|values| all(key, values, why, parse)).transpose()
}

fn all<T>(
    key: &'static str,
    values: Vec<String>,
    why: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let checked = |(index, value): (usize, String)| parse(&value).ok_or(Error::Value { key, index, value, why });
    values.into_iter().enumerate().map(checked).collect()
}

impl Ports {
    /// As in a policy's `network.connect`.
    fn parse(text: &str) -> Option<Ports> {
        let (transport, ports) = text.split_once(':')?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return None,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (first, last): (u16, u16) = (number(first)?, number(last)?);
        (first <= last && last - first < MOST_PORTS).then_some(Ports { transport, first, last })
    }

    pub fn contain(&self, transport: Transport, port: u16) -> bool {
        self.transport == transport && (self.first..=self.last).contains(&port)
    }
}

impl Network {
    pub const fn new(address: IpAddr, bits: u8) -> Network {
        Network { address, bits }
    }

    pub const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Network {
        Network::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits)
    }

    pub const fn v6(segments: [u16; 8], bits: u8) -> Network {
        let [a, b, c, d, e, f, g, h] = segments;
        Network::new(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits)
    }

    /// An address, or one with the length of a prefix, or in IPv4 with a mask; bits behind the prefix are let be.
    fn parse(text: &str) -> Option<Network> {
        let (address, rest) = text.split_once('/').map_or((text, None), |(address, rest)| (address, Some(rest)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match rest {
            None => most,
            Some(bits) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(mask) => match (address, mask.parse::<Ipv4Addr>().ok()?.to_bits()) {
                (IpAddr::V4(_), mask) if mask.leading_ones() == mask.count_ones() => mask.count_ones() as u8,
                _ => return None,
            },
        };
        (bits <= most).then_some(Network { address, bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                (ours.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                (ours.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether all of that one is in this one.
    pub fn covers(&self, other: &Network) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read() {
        let text = br#"{"addresses": ["10.0.0.0/8", "::1", "10.1.2.3/255.255.0.0"], "connect": ["tcp:443", "udp:8000-9023"],
            "domains": ["example.org", "*.Example.org"], "resolvers": ["127.0.0.53", "::1"], "hosts": {}}"#;
        let config = Config::parse(text).unwrap();
        let addresses = config.addresses.unwrap();
        assert_eq!(addresses[0], Network::v4(10, 0, 0, 0, 8));
        assert_eq!(addresses[1].bits, 128);
        assert_eq!(addresses[2].bits, 16);
        assert_eq!(config.connect.unwrap()[1], Ports { transport: Transport::Udp, first: 8000, last: 9023 });
        assert_eq!((config.domains.unwrap().len(), config.resolvers.len(), config.mtu), (2, 2, 1500));
        let config = Config::parse(br#"{"addresses": null, "mtu": 65520}"#).unwrap();
        assert!(config.addresses.is_none() && config.connect.is_none() && config.domains.is_none());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, message) in [
            (r#"{"adresses": []}"#, "unknown field"),
            (r#"[]"#, "configuration"),
            (r#"{"addresses": ["10.0.0.0/33"]}"#, "addresses[0]: \"10.0.0.0/33\" is no address"),
            (r#"{"addresses": ["10.0.0.0/+3"]}"#, "is no address"),
            (r#"{"addresses": ["10.0.0.0/255.0.255.0"]}"#, "is no address"),
            (r#"{"connect": ["tcp:1", "tcp:0-1024"]}"#, "connect[1]"),
            (r#"{"connect": ["tcp:+1"]}"#, "is no endpoint"),
            (r#"{"connect": ["sctp:1"]}"#, "is no endpoint"),
            (r#"{"connect": ["tcp:9-8"]}"#, "is no endpoint"),
            (r#"{"domains": ["a..b"]}"#, "is no domain"),
            (r#"{"resolvers": ["dns.example.org"]}"#, "is no address"),
            (r#"{"hosts": {"a": "1.2.3.4"}}"#, "hosts"),
            (r#"{"mtu": 1279}"#, "mtu"),
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(matches!(Config::read(std::io::repeat(b' ')), Err(Error::Long)));
    }

    #[test]
    fn networks_contain() {
        let all = Network::v4(0, 0, 0, 0, 0);
        let loopback = Network::v4(127, 0, 0, 0, 8);
        assert!(all.contains("1.2.3.4".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!(loopback.contains("127.255.0.1".parse().unwrap()) && !loopback.contains("128.0.0.0".parse().unwrap()));
        assert!(all.covers(&loopback) && !loopback.covers(&all) && loopback.covers(&Network::v4(127, 0, 0, 1, 32)));
        assert!(Network::v6([0; 8], 0).contains("ff::".parse().unwrap()));
    }
}
