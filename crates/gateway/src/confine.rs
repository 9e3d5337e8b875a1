//! What is left to this program before it serves a byte: sockets of the internet, and nothing else of the host. Whoever takes it over
//! by a packet has no files, no privileges, no other processes, and twenty-nine system calls; where it may connect to is then the
//! host's to say, as far as Landlock holds ports (ADR 51).

mod filter;

use crate::config::{Config, Transport};
use crate::dns;
use landlock::{
    Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    Scope, ABI,
};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::collections::BTreeSet;

/// Users of gateways: this, and the number of the process, which no other has at the time. Those of monitors are the 2^22 below
/// (skerry-agent's `jail`), and nobody has these either.
const FIRST_USER: u32 = 0x7040_0000;
const MOST_USERS: u32 = 1 << 22;

/// Connections, flows and questions, with some to spare.
const MOST_FILES: u64 = 1024;
/// Twice what all buffers take.
const MOST_MEMORY: u64 = 512 << 20;
/// Where more ports are listed, Landlock holds none.
const MOST_PORTS: usize = 1 << 13;
const LANDLOCK: ABI = ABI::V6;

#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    what: &'static str,
    why: String,
}

impl Error {
    fn new(what: &'static str, why: impl std::fmt::Display) -> Error {
        Error { what, why: why.to_string() }
    }
}

/// What stays possible.
pub struct Limits {
    /// Ports of TCP that are connected to; `None`: any.
    ports: Option<BTreeSet<u16>>,
}

impl Limits {
    pub fn of(config: &Config) -> Limits {
        let ports = config.connect.as_ref().map(|connect| {
            let tcp = connect.iter().filter(|ports| ports.transport == Transport::Tcp);
            let mut all: BTreeSet<u16> = tcp.flat_map(|ports| ports.first..=ports.last).take(MOST_PORTS + 1).collect();
            if !config.resolvers.is_empty() {
                all.insert(dns::PORT);
            }
            all
        });
        Limits { ports: ports.filter(|ports| ports.len() <= MOST_PORTS) }
    }
}

/// From here on there is no more than that. To be called with one thread.
pub fn confine(limits: &Limits) -> Result<(), Error> {
    limit_resources().map_err(|error| Error::new("limits cannot be set", error))?;
    become_nobody().map_err(|error| Error::new("privileges cannot be dropped", error))?;
    restrict(limits).map_err(|error| Error::new("Landlock", error))?;
    filter::install().map_err(|error| Error::new("the filter of system calls", error))
}

fn limit_resources() -> Result<(), Errno> {
    for (resource, most) in [(Resource::Core, 0), (Resource::Nofile, MOST_FILES), (Resource::As, MOST_MEMORY)] {
        let most = rustix::process::getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

fn become_nobody() -> Result<(), Errno> {
    if rustix::process::geteuid().is_root() {
        let user = FIRST_USER + rustix::process::getpid().as_raw_nonzero().get() as u32 % MOST_USERS;
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        match rustix::thread::set_thread_groups(&[]).and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid)) {
            Ok(()) => rustix::thread::set_thread_res_uid(uid, uid, uid)?,
            // In a user namespace that does not have it: what is left is somebody without capabilities.
            Err(Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let nothing = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // The starter's wish ends with its user.
    skerry_platform::agent::die_with_parent();
    Ok(())
}

/// No files, nobody's signals and abstract sockets, no ports that are listened at, and those that may be connected to. As far as the host's
/// version goes: the filter allows none of it but connecting.
fn restrict(limits: &Limits) -> Result<(), RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(LANDLOCK))?.handle_access(AccessNet::BindTcp)?;
    let ruleset = match limits.ports {
        Some(_) => ruleset.handle_access(AccessNet::ConnectTcp)?,
        None => ruleset,
    };
    let ports = limits.ports.iter().flatten().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    ruleset.scope(Scope::from_all(LANDLOCK))?.create()?.add_rules(ports)?.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType};
    use rustix::process::{waitpid, Pid, WaitOptions};
    use skerry_platform::agent::{fork, landlock_abi, leave};
    use std::net::TcpListener;

    #[test]
    fn ports_that_are_not_listed_are_held_besides() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [listed, other] = [0, 1].map(|one: usize| listeners[one].local_addr().unwrap());
        let connect = |to| {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::connect(&socket, &to)
        };
        let limits = Limits { ports: Some(BTreeSet::from([listed.port()])) };
        let Some(pid) = fork().unwrap() else {
            let restricted = restrict(&limits).is_ok();
            let held = (connect(listed), connect(other)) == (Ok(()), Err(Errno::ACCESS));
            let files = rustix::fs::open("/", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).is_err();
            leave(i32::from(restricted) + 2 * i32::from(held) + 4 * i32::from(files));
        };
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
        let wanted = match landlock_abi() {
            0 => 1,
            1..4 => 5,
            4.. => 7,
        };
        assert_eq!(status.exit_status(), Some(wanted));
    }

    #[test]
    fn ports_are_those_of_the_policy_and_of_names() {
        let of = |text: &str| Limits::of(&Config::parse(text.as_bytes()).unwrap()).ports;
        assert_eq!(of("{}"), None);
        let text = r#"{"connect": ["tcp:443", "udp:9", "tcp:80-81"], "resolvers": ["127.0.0.1"]}"#;
        assert_eq!(of(text), Some(BTreeSet::from([53, 80, 81, 443])));
        assert_eq!(of(r#"{"connect": ["udp:9"]}"#), Some(BTreeSet::new()));
        let many: Vec<String> = (0..9).map(|one| format!("tcp:{}-{}", one * 1024, one * 1024 + 1023)).collect();
        assert_eq!(of(&serde_json::json!({ "connect": many }).to_string()), None);
    }
}
