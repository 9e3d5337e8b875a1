//! What the server needs to know of a guest, whichever wall it is behind.

use crate::calls::Filter;
use crate::failure;
use crate::rules::landlock::Restriction;
use crate::rules::sockets::Network;
use crate::watch::Watch;
use rustix::thread::CapabilitySet;
use skerry_confine::temporary::Temporary;
use skerry_control::{Failure, FailureKind, Resource, Spawn};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Namespace,
    Rules,
    /// The namespace engine's, in a kernel of its own.
    Guest,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::Namespace => "namespace",
            Engine::Rules => "rules",
            Engine::Guest => "guest",
        }
    }
}

/// Who is reached by what is for everybody in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Everybody {
    /// Whom kill(-1) reaches: a pid namespace, or a Landlock domain that holds signals, keeps all others out.
    InReach,
    /// Our descendants.
    Below,
}

/// A guest that is ready for programs.
pub struct Guest {
    pub engine: Engine,
    /// Ids that exist inside; `None`: all.
    pub only_id: Option<(u32, u32)>,
    /// Who asks for root gets the caller's own ids: there are no others, and nobody to show them as root.
    pub root_is_caller: bool,
    /// RLIMIT_NPROC counts this guest's processes alone.
    pub counted_by_user: bool,
    pub everybody: Everybody,
    /// Programs of root keep these.
    pub kept: CapabilitySet,
    pub filter: Filter,
    /// Denials by the filter are told.
    pub listens: bool,
    /// And those that the host's kernel makes by itself.
    pub watch: Option<Watch>,
    pub restriction: Option<Restriction>,
    pub resources: BTreeMap<Resource, u64>,
    /// What is written to this process's own file of that name before it becomes a program: labels of security modules.
    pub labels: Vec<(&'static str, String)>,
    /// A directory of its own.
    pub temporary: Option<Temporary>,
    /// Ports that the agent is asked for.
    pub network: Option<Network>,
    /// The tmpfs of what is written: how full it is.
    pub stage: Option<OwnedFd>,
    /// The directory in which `ptmx` makes the guest's terminals.
    pub terminals: OwnedFd,
}

impl Guest {
    /// The ids that a program gets; `None`: those that we have.
    pub fn ids_for(&self, spawn: &Spawn) -> Result<Option<(u32, u32)>, Failure> {
        let Some((uid, gid)) = self.only_id else { return Ok(Some((spawn.uid, spawn.gid))) };
        let as_root = self.root_is_caller && (spawn.uid, spawn.gid) == (0, 0);
        let own = (spawn.uid, spawn.gid) == (uid, gid) && spawn.groups.iter().all(|group| *group == gid);
        // Groups of the caller's that a plain process has anyway.
        let own = own || self.engine == Engine::Rules && (spawn.uid, spawn.gid) == (uid, gid);
        if as_root || own {
            return Ok(None);
        }
        let message = format!(
            "user {}:{} cannot be had from the engine {} here: without privileges only {uid}:{gid} exists inside",
            spawn.uid,
            spawn.gid,
            self.engine.name()
        );
        Err(failure(FailureKind::Unenforceable, message))
    }
}
