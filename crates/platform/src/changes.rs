//! Changes that the host's own processes make in directories: which names there are, and who may look for them
//! (fanotify(7), which needs no privilege for this since Linux 5.13).
//!
//! What has changed is not asked, only whether something has.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// fanotify_init(2)'s flags: FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_NOTIF, FAN_REPORT_DIR_FID.
pub const INIT_FLAGS: u32 = libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DIR_FID;
/// fanotify_mark(2)'s.
pub const MARK_FLAGS: u32 = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR;
const EVENTS: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF
    | libc::FAN_ONDIR;

pub struct HostChanges(OwnedFd);

impl HostChanges {
    /// `None`: the host does not tell of changes, or has no more groups for this user.
    pub fn new() -> Option<HostChanges> {
        // SAFETY: makes a descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_fanotify_init, INIT_FLAGS, libc::O_RDONLY | libc::O_CLOEXEC) };
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
        // SAFETY: it is nobody else's.
        Some(HostChanges(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// From now on changes in the directory, and of it, are noticed. False: they are not.
    pub fn watch(&self, directory: impl AsFd) -> bool {
        let directory = directory.as_fd().as_raw_fd();
        // SAFETY: the name is a string that lives.
        let result =
            unsafe { libc::syscall(libc::SYS_fanotify_mark, self.0.as_raw_fd(), MARK_FLAGS, EVENTS, directory, c".".as_ptr()) };
        result == 0
    }

    /// Whether something has changed since this was asked last.
    pub fn have_come(&self) -> bool {
        if rustix::io::ioctl_fionread(&self.0).is_ok_and(|bytes| bytes == 0) {
            return false;
        }
        let mut events = [0u8; 4096];
        while rustix::io::read(&self.0, &mut events).is_ok_and(|count| count > 0) {}
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_names_and_permissions_are_noticed_and_others_are_not() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("skerry-changes-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        let opened = rustix::fs::open(&directory, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let Some(changes) = HostChanges::new() else {
            std::fs::remove_dir_all(&directory).unwrap();
            return eprintln!("skipped: the host does not tell of changes");
        };
        assert!(changes.watch(&opened) && !changes.have_come());
        let file = directory.join("file");
        let steps: [(&str, &dyn Fn()); 6] = [
            ("create", &|| std::fs::write(&file, "").unwrap()),
            ("rename", &|| std::fs::rename(&file, directory.join("sub/file")).unwrap()),
            ("back", &|| std::fs::rename(directory.join("sub/file"), &file).unwrap()),
            ("chmod", &|| std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).unwrap()),
            ("unlink", &|| std::fs::remove_file(&file).unwrap()),
            ("mkdir", &|| std::fs::create_dir(directory.join("other")).unwrap()),
        ];
        for (name, step) in steps {
            step();
            assert!(changes.have_come() && !changes.have_come(), "{name}");
        }
        std::fs::write(directory.join("sub/more"), "").unwrap();
        assert!(!changes.have_come());
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(changes.have_come());
    }
}
