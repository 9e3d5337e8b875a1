//! Who a task is (credentials(7), capabilities(7)).

use crate::fs::inode::Metadata;
use crate::{Errno, Result};

/// Capability sets; bit N stands for capability N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
}

pub const CAP_CHOWN: u32 = 0;
pub const CAP_DAC_OVERRIDE: u32 = 1;
pub const CAP_DAC_READ_SEARCH: u32 = 2;
pub const CAP_FOWNER: u32 = 3;
pub const CAP_FSETID: u32 = 4;
pub const CAP_KILL: u32 = 5;
pub const CAP_SETGID: u32 = 6;
pub const CAP_SETUID: u32 = 7;
pub const CAP_SETPCAP: u32 = 8;
pub const CAP_NET_BIND_SERVICE: u32 = 10;
pub const CAP_NET_ADMIN: u32 = 12;
pub const CAP_NET_RAW: u32 = 13;
pub const CAP_IPC_LOCK: u32 = 14;
pub const CAP_IPC_OWNER: u32 = 15;
pub const CAP_SYS_CHROOT: u32 = 18;
pub const CAP_SYS_PTRACE: u32 = 19;
pub const CAP_SYS_ADMIN: u32 = 21;
pub const CAP_SYS_BOOT: u32 = 22;
pub const CAP_SYS_NICE: u32 = 23;
pub const CAP_SYS_RESOURCE: u32 = 24;
pub const CAP_LEASE: u32 = 28;
pub const CAP_AUDIT_CONTROL: u32 = 30;
pub const CAP_SYS_TIME: u32 = 25;
pub const CAP_SYS_TTY_CONFIG: u32 = 26;
pub const CAP_MKNOD: u32 = 27;
pub const CAP_LAST_CAP: u32 = 40;

impl Capabilities {
    pub const ALL: u64 = (1 << (CAP_LAST_CAP + 1)) - 1;
    pub const fn full() -> Capabilities {
        Capabilities { effective: Self::ALL, permitted: Self::ALL, inheritable: 0, bounding: Self::ALL, ambient: 0 }
    }
    pub const fn none() -> Capabilities {
        Capabilities { effective: 0, permitted: 0, inheritable: 0, bounding: Self::ALL, ambient: 0 }
    }
}

#[derive(Clone, Debug)]
pub struct Credentials {
    pub ruid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub rgid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub capabilities: Capabilities,
    /// prctl(PR_SET_KEEPCAPS), PR_SET_SECUREBITS.
    pub keep_capabilities: bool,
    pub securebits: u32,
    pub no_new_privs: bool,
}

bitflags::bitflags! {
    /// What access is wanted (access(2)'s values).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AccessMode: u32 {
        const READ = 4;
        const WRITE = 2;
        const EXECUTE = 1;
    }
}

impl Credentials {
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Credentials {
        Credentials {
            ruid: uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            rgid: gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups,
            capabilities: if uid == 0 { Capabilities::full() } else { Capabilities::none() },
            keep_capabilities: false,
            securebits: 0,
            no_new_privs: false,
        }
    }

    pub fn has_capability(&self, capability: u32) -> bool {
        self.capabilities.effective & (1 << capability) != 0
    }

    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// The permission check of path_resolution(7). EACCES where `wanted` is not allowed on an object with `metadata`.
    pub fn check_access(&self, metadata: &Metadata, wanted: AccessMode) -> Result<()> {
        use crate::fs::inode::FileType;
        let bits = if self.fsuid == metadata.uid {
            metadata.permissions >> 6
        } else if self.in_group(metadata.gid) {
            metadata.permissions >> 3
        } else {
            metadata.permissions
        };
        if wanted.bits() & !bits & 7 == 0 {
            return Ok(());
        }
        let directory = metadata.kind == FileType::Directory;
        if self.has_capability(CAP_DAC_OVERRIDE)
            && (directory || !wanted.contains(AccessMode::EXECUTE) || metadata.permissions & 0o111 != 0)
        {
            return Ok(());
        }
        if self.has_capability(CAP_DAC_READ_SEARCH)
            && (wanted == AccessMode::READ || (directory && !wanted.contains(AccessMode::WRITE)))
        {
            return Ok(());
        }
        Err(Errno::EACCES)
    }

    /// Whether the caller owns the object, or may act as if (chmod, utimensat ...).
    pub fn is_owner_or_capable(&self, uid: u32) -> bool {
        self.fsuid == uid || self.has_capability(CAP_FOWNER)
    }
}

/// Bits of PR_SET_SECUREBITS (capabilities(7)); each has a lock bit to its left.
pub const SECBIT_NOROOT: u32 = 1;
pub const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
pub const SECBIT_KEEP_CAPS: u32 = 1 << 4;
pub const SECBIT_KEEP_CAPS_LOCKED: u32 = 1 << 5;
pub const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
pub const SECBIT_ALL: u32 = 0xff;
