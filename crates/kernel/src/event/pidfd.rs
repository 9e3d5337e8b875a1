//! pidfd_open(2): a process as a descriptor. It keeps naming the same process when its id is used again.

use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::fs::inode::Metadata;
use crate::sync::WaitQueue;
use crate::task::Process;
use crate::{Errno, Result};
use std::any::Any;
use std::sync::Arc;

/// The object behind the descriptor.
pub struct PidFd {
    process: Arc<Process>,
}

impl PidFd {
    pub fn new(process: Arc<Process>) -> PidFd {
        PidFd { process }
    }

    /// The process, also once it has ended.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The process, unless it has been waited for: then ESRCH.
    pub fn living_or_zombie(&self) -> Result<&Arc<Process>> {
        if self.is_listed() {
            Ok(&self.process)
        } else {
            Err(Errno::ESRCH)
        }
    }

    fn is_listed(&self) -> bool {
        let found = self.process.kernel().pids.process(self.process.pid());
        found.is_ok_and(|found| Arc::ptr_eq(&found, &self.process))
    }
}

/// The process behind a pidfd's open file; EBADF where it is none.
pub fn process_of(file: &OpenFile) -> Result<&Arc<Process>> {
    file.downcast::<PidFd>().map(PidFd::process).ok_or(Errno::EBADF)
}

impl FileOperations for PidFd {
    fn poll(&self) -> Events {
        if !self.process.is_dead() {
            return Events::empty();
        }
        let mut events = Events::IN | Events::RDNORM;
        events.set(Events::HUP, !self.is_listed());
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.process.exit_queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn fdinfo(&self) -> String {
        let pid = if self.is_listed() { self.process.pid() } else { -1 };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:[pidfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
