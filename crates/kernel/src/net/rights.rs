//! Open files on their way through a socket (unix(7), SCM_RIGHTS).

use crate::fs::file::OpenFile;
use crate::{Errno, Result};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// SCM_MAX_FD: how many one message may carry (EINVAL beyond).
pub const MAXIMUM_PER_MESSAGE: usize = 253;
/// How many may be under way in a sandbox, whoever sends: sockets in flight inside each other are never freed before the
/// sandbox ends, and this bounds them.
const MAXIMUM_IN_FLIGHT: usize = 16384;

/// Counts the files that are under way in one sandbox.
#[derive(Default)]
pub struct InFlightCount(AtomicUsize);

/// Files under way; counted until received or dropped.
pub struct InFlight {
    files: Vec<Arc<OpenFile>>,
    count: Option<Arc<InFlightCount>>,
}

impl InFlight {
    pub const fn none() -> InFlight {
        InFlight { files: Vec::new(), count: None }
    }

    /// ETOOMANYREFS where more than `limit` (RLIMIT_NOFILE) would be under way.
    pub fn new(files: Vec<Arc<OpenFile>>, count: &Arc<InFlightCount>, limit: u64) -> Result<InFlight> {
        if files.is_empty() {
            return Ok(InFlight::none());
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAXIMUM_IN_FLIGHT);
        let number = files.len();
        count
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |present| Some(present + number).filter(|&sum| sum <= limit))
            .map_err(|_| Errno::ETOOMANYREFS)?;
        files.iter().for_each(|file| file.operations.passed_on());
        Ok(InFlight { files, count: Some(count.clone()) })
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Another set of references, for MSG_PEEK.
    pub fn duplicate(&self) -> InFlight {
        if let Some(count) = &self.count {
            count.0.fetch_add(self.files.len(), Ordering::Relaxed);
        }
        InFlight { files: self.files.clone(), count: self.count.clone() }
    }

    /// They have arrived.
    pub fn take(mut self) -> Vec<Arc<OpenFile>> {
        self.uncount();
        std::mem::take(&mut self.files)
    }

    fn uncount(&mut self) {
        if let Some(count) = self.count.take() {
            count.0.fetch_sub(self.files.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.uncount();
        if !self.files.is_empty() {
            release(std::mem::take(&mut self.files));
        }
    }
}

thread_local! {
    static RELEASING: RefCell<Option<Vec<Arc<OpenFile>>>> = const { RefCell::new(None) };
}

/// Drops files one after the other, never nested: a socket whose queue holds a socket whose queue holds a socket ... would
/// otherwise use up the sentry's own stack. Not inlined, because of the thread-local (`run::worker`).
#[inline(never)]
fn release(files: Vec<Arc<OpenFile>>) {
    let outermost = RELEASING.with(|releasing| {
        let mut releasing = releasing.borrow_mut();
        match &mut *releasing {
            Some(list) => {
                list.extend(files);
                false
            }
            None => {
                *releasing = Some(files);
                true
            }
        }
    });
    if !outermost {
        return;
    }
    loop {
        let next = RELEASING.with(|releasing| releasing.borrow_mut().as_mut().and_then(Vec::pop));
        match next {
            Some(file) => drop(file),
            None => break,
        }
    }
    RELEASING.with(|releasing| *releasing.borrow_mut() = None);
}
