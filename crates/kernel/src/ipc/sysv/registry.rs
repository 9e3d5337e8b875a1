//! Keys, ids and permissions of System V objects.

use crate::task::Credentials;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: i32 = 0o1000;
pub const IPC_EXCL: i32 = 0o2000;
pub const IPC_NOWAIT: i32 = 0o4000;

/// Objects of a kind (SHMMNI, SEMMNI, MSGMNI: 32000 on Linux; 4096 SHMMNI).
const ID_SPACE: i32 = 32768;

const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;

/// Who owns an object, and what others may (struct ipc_perm, sysvipc(7)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Permission {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub creator_uid: u32,
    pub creator_gid: u32,
    /// The low nine bits, and for shared memory SHM_DEST and SHM_LOCKED.
    pub mode: u32,
    pub sequence: u16,
}

/// `struct ipc64_perm` of x86-64: 48 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PermissionStruct {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub creator_uid: u32,
    pub creator_gid: u32,
    pub mode: u32,
    pub sequence: u16,
    _padding: [u16; 3],
    _unused: [u64; 2],
}

impl Permission {
    pub fn new(key: i32, flags: i32, credentials: &Credentials) -> Permission {
        Permission {
            key,
            uid: credentials.euid,
            gid: credentials.egid,
            creator_uid: credentials.euid,
            creator_gid: credentials.egid,
            mode: flags as u32 & 0o777,
            sequence: 0,
        }
    }

    /// EACCES where `wanted` (any of the three groups of bits) is not allowed.
    pub fn check(&self, credentials: &Credentials, wanted: u32) -> Result<()> {
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 0o7;
        let in_group = |gid: u32| credentials.egid == gid || credentials.groups.contains(&gid);
        let granted = if credentials.euid == self.uid || credentials.euid == self.creator_uid {
            self.mode >> 6
        } else if in_group(self.gid) || in_group(self.creator_gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted == 0 || credentials.has_capability(CAP_IPC_OWNER) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// EPERM where the caller may not remove or change the object.
    pub fn check_owner(&self, credentials: &Credentials) -> Result<()> {
        let owner = credentials.euid == self.uid || credentials.euid == self.creator_uid;
        if owner || credentials.has_capability(CAP_SYS_ADMIN) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    pub fn to_struct(self) -> PermissionStruct {
        PermissionStruct {
            key: self.key,
            uid: self.uid,
            gid: self.gid,
            creator_uid: self.creator_uid,
            creator_gid: self.creator_gid,
            mode: self.mode,
            sequence: self.sequence,
            ..PermissionStruct::default()
        }
    }

    /// IPC_SET: owner, group and the nine mode bits.
    pub fn set(&mut self, new: &PermissionStruct) {
        (self.uid, self.gid) = (new.uid, new.gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
    }
}

/// An object of the three kinds.
pub trait Object: Send + Sync {
    fn permission(&self) -> Permission;
    fn set_sequence(&mut self, sequence: u16);
    /// The key can no more be found: what waits gets EIDRM.
    fn removed(&self);
}

/// The objects of one kind, by index; an id is the index with a sequence number that changes at each use of it.
pub struct Registry<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    objects: BTreeMap<i32, Arc<T>>,
    /// Which object has which key; a key that is no more that of its object is forgotten when it is looked up.
    keys: HashMap<i32, i32>,
    /// All below this are in use.
    lowest_free: i32,
    sequence: u16,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry { inner: Mutex::new(Inner { objects: BTreeMap::new(), keys: HashMap::new(), lowest_free: 0, sequence: 0 }) }
    }
}

/// The highest sequence number: ids stay positive.
const MOST_SEQUENCE: u16 = (i32::MAX / ID_SPACE) as u16;

impl<T: Object> Registry<T> {
    /// The object with `key`, checked with `check`, or one made with `make` (shmget(2), semget(2), msgget(2)).
    /// EEXIST, ENOENT, EACCES; ENOSPC where there are `most` already. A new object gets the id of `next_id` if that is
    /// free (/proc/sys/kernel/*_next_id).
    #[allow(clippy::too_many_arguments)]
    pub fn get(
        &self,
        key: i32,
        flags: i32,
        most: usize,
        next_id: impl FnOnce() -> Option<i32>,
        credentials: &Credentials,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<i32> {
        let mut inner = self.inner.lock();
        if key != IPC_PRIVATE {
            let found = inner.keys.get(&key).and_then(|index| inner.objects.get_key_value(index));
            let found = found.filter(|(_, object)| object.permission().key == key);
            if let Some((&index, object)) = found {
                if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                    return Err(Errno::EEXIST);
                }
                check(object)?;
                object.permission().check(credentials, flags as u32)?;
                return Ok(id_of(index, object.permission().sequence));
            }
            if flags & IPC_CREAT == 0 {
                return Err(Errno::ENOENT);
            }
        }
        if inner.objects.len() >= most {
            return Err(Errno::ENOSPC);
        }
        let mut object = make()?;
        let wished = next_id().filter(|id| !inner.objects.contains_key(&(id % ID_SPACE)));
        let (index, sequence) = match wished {
            Some(id) => (id % ID_SPACE, (id / ID_SPACE) as u16),
            None => {
                let start = inner.lowest_free;
                let index = (start..ID_SPACE).find(|index| !inner.objects.contains_key(index)).ok_or(Errno::ENOSPC)?;
                inner.lowest_free = index + 1;
                let sequence = inner.sequence;
                inner.sequence = if sequence == MOST_SEQUENCE { 0 } else { sequence + 1 };
                (index, sequence)
            }
        };
        object.set_sequence(sequence);
        inner.objects.insert(index, Arc::new(object));
        if key != IPC_PRIVATE {
            inner.keys.insert(key, index);
        }
        Ok(id_of(index, sequence))
    }

    /// EINVAL for an id that was never given out, EIDRM for one whose object is gone.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        let object = self.inner.lock().objects.get(&(id % ID_SPACE)).cloned().ok_or(Errno::EINVAL)?;
        if i32::from(object.permission().sequence) != id / ID_SPACE {
            return Err(Errno::EIDRM);
        }
        Ok(object)
    }

    /// By index (SHM_STAT and its kin), of which an id is a form too; with the id. EINVAL.
    pub fn find_index(&self, index: i32) -> Result<(i32, Arc<T>)> {
        if index < 0 {
            return Err(Errno::EINVAL);
        }
        let index = index % ID_SPACE;
        let object = self.inner.lock().objects.get(&index).cloned().ok_or(Errno::EINVAL)?;
        Ok((id_of(index, object.permission().sequence), object))
    }

    /// Takes the object out, if it is the one meant.
    pub fn remove(&self, id: i32, object: &Arc<T>) {
        {
            let mut inner = self.inner.lock();
            let index = id % ID_SPACE;
            if inner.objects.get(&index).is_none_or(|present| !Arc::ptr_eq(present, object)) {
                return;
            }
            inner.objects.remove(&index);
            inner.lowest_free = inner.lowest_free.min(index);
        }
        self.release_key(object.permission().key, id);
        object.removed();
    }

    /// The key no more leads to this object.
    pub fn release_key(&self, key: i32, id: i32) {
        let mut inner = self.inner.lock();
        if inner.keys.get(&key) == Some(&(id % ID_SPACE)) {
            inner.keys.remove(&key);
        }
    }

    /// All, with their ids.
    pub fn list(&self) -> Vec<(i32, Arc<T>)> {
        let inner = self.inner.lock();
        inner.objects.iter().map(|(&index, object)| (id_of(index, object.permission().sequence), object.clone())).collect()
    }

    /// The highest index in use (IPC_INFO), 0 where there is none.
    pub fn highest_index(&self) -> i32 {
        self.inner.lock().objects.keys().next_back().copied().unwrap_or(0)
    }
}

fn id_of(index: i32, sequence: u16) -> i32 {
    i32::from(sequence) * ID_SPACE + index
}
