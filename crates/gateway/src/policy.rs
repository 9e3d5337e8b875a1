//! Where the guest may go. What is the host's own, and what only a neighbour should get at, is denied whatever the policy says,
//! unless it names that very thing.

use crate::config::{Config, Network, Ports, Transport};
use crate::dns::{Name, Pattern};
use crate::host::Routes;
use smoltcp::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Addresses that answers to allowed names have given, at most.
const MOST_LEARNED: usize = 4096;
/// Programs go on using an address for a while, and nobody needs one for ever.
const LEAST_TIME: u32 = 60;
const MOST_TIME: u32 = 3600;

/// Always denied: what it is, and where.
const ALWAYS: &[(&str, &[Network])] = &[
    (LOOPBACK, &[Network::v4(127, 0, 0, 0, 8), Network::v6([0, 0, 0, 0, 0, 0, 0, 1], 128)]),
    (
        "unspecified",
        &[
            Network::v4(0, 0, 0, 0, 8),
            // IPv4 in another form: on no wire, and here it would lead past what is said of IPv4.
            Network::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
            Network::v6([0; 8], 96),
        ],
    ),
    (
        "metadata",
        &[
            // Clouds tell a machine its secrets there: AWS and most others, Azure, Alibaba, Oracle; AWS and Google by IPv6.
            Network::v4(169, 254, 169, 254, 32),
            Network::v4(168, 63, 129, 16, 32),
            Network::v4(100, 100, 100, 200, 32),
            Network::v4(192, 0, 0, 192, 32),
            Network::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
            Network::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
        ],
    ),
    ("link_local", &[Network::v4(169, 254, 0, 0, 16), Network::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)]),
    // 240.0.0.0/4 besides: nobody's, with everybody's address at its end.
    ("multicast", &[Network::v4(224, 0, 0, 0, 3), Network::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)]),
    ("guest_network", &[Network::v4(10, 0, 2, 0, 24), Network::v6([0xfd00, 0x5ce, 0, 0, 0, 0, 0, 0], 64)]),
];
const LOOPBACK: &str = "loopback";
const HOST: &str = "host";

/// What denies: a clause of the policy. `network.mode` is what a network of its own means: the host's is not the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause {
    pub name: &'static str,
    /// What is always denied, of those.
    pub reason: Option<&'static str>,
}

const fn clause(name: &'static str) -> Clause {
    Clause { name, reason: None }
}

const fn always(reason: &'static str) -> Clause {
    Clause { name: "network.mode", reason: Some(reason) }
}

const ADDRESSES: Clause = clause("network.addresses");
const CONNECT: Clause = clause("network.connect");
const DOMAINS: Clause = clause("network.domains");

pub struct Policy {
    addresses: Option<Vec<Network>>,
    connect: Option<Vec<Ports>>,
    domains: Option<Vec<Pattern>>,
    /// Until when.
    learned: HashMap<IpAddr, Instant>,
    routes: Routes,
}

/// What is sent: a protocol with ports, or an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Transport(Transport),
    Echo,
}

impl Policy {
    pub fn new(config: Config, routes: Routes) -> Policy {
        let Config { addresses, connect, domains, .. } = config;
        Policy { addresses, connect, domains, learned: HashMap::new(), routes }
    }

    /// Whether the guest may send there.
    pub fn check(&self, protocol: Protocol, to: SocketAddr, now: Instant) -> Result<(), Clause> {
        let address = to.ip();
        self.check_always(address)?;
        self.check_ports(protocol, to.port())?;
        let listed = self.addresses.iter().flatten().any(|network| network.contains(address));
        let named = || self.learned.get(&address).is_some_and(|until| now < *until);
        match (&self.addresses, &self.domains) {
            (None, None) => Ok(()),
            _ if listed || named() => Ok(()),
            (_, Some(_)) => Err(DOMAINS),
            (Some(_), None) => Err(ADDRESSES),
        }
    }

    fn check_always(&self, address: IpAddr) -> Result<(), Clause> {
        let named = |denied: &Network| {
            let named = |listed: &Network| listed.contains(address) && denied.covers(listed);
            self.addresses.iter().flatten().any(named)
        };
        let denied = |(reason, networks): &(&'static str, &[Network])| {
            networks.iter().find(|network| network.contains(address)).map(|network| (*reason, *network))
        };
        // In order, the narrower one first: whoever names 169.254.0.0/16 has not named the place of a cloud's secrets.
        match ALWAYS.iter().find_map(denied) {
            Some((LOOPBACK, network)) if named(&network) => return Ok(()),
            Some((_, network)) if named(&network) => {}
            Some((reason, _)) => return Err(always(reason)),
            None => {}
        }
        // The host's own are named one by one: whoever names a network means others there.
        let alone = Network::new(address, if address.is_ipv4() { 32 } else { 128 });
        if self.routes.is_own(address) && !named(&alone) {
            return Err(always(HOST));
        }
        Ok(())
    }

    fn check_ports(&self, protocol: Protocol, port: u16) -> Result<(), Clause> {
        let listed = |ports: &Ports| matches!(protocol, Protocol::Transport(transport) if ports.contain(transport, port));
        match &self.connect {
            Some(connect) if !connect.iter().any(listed) => Err(CONNECT),
            _ => Ok(()),
        }
    }

    /// Whether our DNS server may be asked by this transport: what names there are is the clause `domains`, which would say
    /// nothing if it could not be asked.
    pub fn check_names(&self, transport: Transport) -> Result<(), Clause> {
        match self.domains {
            Some(_) => Ok(()),
            None => self.check_ports(Protocol::Transport(transport), 53),
        }
    }

    /// Whether this name may be asked for.
    pub fn check_name(&self, name: &Name) -> Result<(), Clause> {
        match &self.domains {
            Some(patterns) if !patterns.iter().any(|pattern| pattern.matches(name)) => Err(DOMAINS),
            _ => Ok(()),
        }
    }

    /// Whether what is answered has to be known.
    pub fn learns(&self) -> bool {
        self.domains.is_some()
    }

    /// An allowed name has this address, for as many seconds.
    pub fn learn(&mut self, address: IpAddr, seconds: u32, now: Instant) {
        let until = now + Duration::from_secs(seconds.clamp(LEAST_TIME, MOST_TIME).into());
        if self.learned.len() >= MOST_LEARNED && !self.learned.contains_key(&address) {
            self.learned.retain(|_, until| now < *until);
            let first = self.learned.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
            if let Some(first) = first.filter(|_| self.learned.len() >= MOST_LEARNED) {
                self.learned.remove(&first);
            }
        }
        let known = self.learned.entry(address).or_insert(until);
        *known = until.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(config: &str) -> Policy {
        Policy::new(Config::parse(config.as_bytes()).unwrap(), Routes::open().unwrap())
    }

    fn checked(policy: &Policy, to: &str, now: Instant) -> Result<(), Clause> {
        policy.check(Protocol::Transport(Transport::Tcp), to.parse().unwrap(), now)
    }

    #[test]
    fn an_answer_is_good_for_a_while() {
        let mut policy = policy(r#"{"domains": ["example.org"]}"#);
        let to = "198.51.100.1:1";
        let at = |seconds| Instant::from_secs(seconds);
        assert_eq!(checked(&policy, to, at(0)), Err(DOMAINS));
        policy.learn("198.51.100.1".parse().unwrap(), 0, at(0));
        assert_eq!((checked(&policy, to, at(59)), checked(&policy, to, at(60))), (Ok(()), Err(DOMAINS)));
        policy.learn("198.51.100.1".parse().unwrap(), u32::MAX, at(100));
        policy.learn("198.51.100.1".parse().unwrap(), 1, at(100));
        assert_eq!((checked(&policy, to, at(3699)), checked(&policy, to, at(3700))), (Ok(()), Err(DOMAINS)));
    }

    #[test]
    fn as_many_are_known_as_there_may_be() {
        let mut policy = policy(r#"{"domains": []}"#);
        let address = |number: u32| IpAddr::from((0xc633_0000 + number).to_be_bytes());
        for number in 0..2 * MOST_LEARNED as u32 {
            policy.learn(address(number), 100 + number % 7, Instant::ZERO);
            assert!(policy.learned.len() <= MOST_LEARNED);
        }
        assert!(policy.learned.contains_key(&address(2 * MOST_LEARNED as u32 - 1)));
    }

    #[test]
    fn what_is_always_denied_has_to_be_named() {
        let denied = |config: &str, to: &str| {
            checked(&policy(config), to, Instant::ZERO).err().map(|clause| (clause.name, clause.reason))
        };
        let always = |reason| Some(("network.mode", Some(reason)));
        assert_eq!(denied("{}", "169.254.169.254:80"), always("metadata"));
        assert_eq!(denied(r#"{"addresses": ["169.254.0.0/16"]}"#, "169.254.169.254:80"), always("metadata"));
        assert_eq!(denied(r#"{"addresses": ["169.254.169.254"]}"#, "169.254.169.254:80"), None);
        assert_eq!(denied(r#"{"addresses": ["128.0.0.0/1"]}"#, "169.254.9.9:80"), always("link_local"));
        assert_eq!(denied(r#"{"addresses": ["127.0.0.0/7"]}"#, "127.0.0.1:80"), always("loopback"));
        for (address, reason) in [
            ("[::1]:80", "loopback"),
            ("[::]:80", "unspecified"),
            ("[::ffff:127.0.0.1]:80", "unspecified"),
            ("[::7f00:1]:80", "unspecified"),
            ("[fe80::1]:80", "link_local"),
            ("[ff02::1]:80", "multicast"),
            ("[fd00:ec2::254]:80", "metadata"),
            ("[fd00:5ce::7]:80", "guest_network"),
        ] {
            assert_eq!(denied(r#"{"addresses": ["::/0"]}"#, address), always(reason), "{address}");
        }
    }

    #[test]
    fn an_echo_has_no_port_that_could_be_listed() {
        let policy = policy(r#"{"connect": ["tcp:0-1023"]}"#);
        assert_eq!(policy.check(Protocol::Echo, "198.51.100.1:0".parse().unwrap(), Instant::ZERO), Err(CONNECT));
    }
}
