//! Threads that begin and end without our being asked (the stub's `births.rs`, ADR 63).
//!
//! A parked thread is *offered* to the one that made it, with ids that are kept for it. What has become of that is in the offer's word, in the
//! parked thread's channel, and looked at before anybody is served ([`Engine::look_at_births`]): a thread that has
//! begun is a task from then on, made as its maker is now, which is as it was, since a request of its maker's looks first. Whatever
//! could make it another one's child (who it is, what is inherited, signals, the end of a process, tracers) takes the offers
//! back before: only calls that are known to do nothing of that sort ([`leaves_offers`]) let them stand.
//!
//! What a word says is its process's own doing: it chooses among threads that we have offered, each of which runs in that process.
//!
//! Lock order: `Births::offers` > `GuestThread::state`, the rooms of signals, `Process::threads`, `PidTable`. `Kernel::tree` may be held.

use super::{Engine, GuestThread};
use crate::signal;
use crate::task::seccomp::is_filtered;
use crate::task::{self, Process, Task};
use crate::Kernel;
use parking_lot::RwLock;
use skerry_abi::raw::general::{self as linux, RLIMIT_NPROC};
use skerry_platform::layout::{birth, BEGIN_AT_ONCE};
use skerry_platform::processor::{nanoseconds_of_ticks, ticks};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Offers in all: each request looks at them.
const MOST: usize = 8;
/// A word that changes so often while it is looked at is not the stub's doing.
const ATTEMPTS: usize = 64;

#[derive(Default)]
pub(super) struct Births {
    offers: RwLock<Vec<Offer>>,
    /// How many there are.
    count: AtomicUsize,
}

struct Offer {
    thread: Arc<GuestThread>,
    maker: Arc<Task>,
    ids: Vec<i32>,
}

/// What is left of an offer that was looked at.
enum Found {
    Stands,
    /// Nobody can begin by it any more; this one has.
    Ended(Option<usize>),
    /// Its process writes there as it likes.
    Spoilt,
}

/// What a word says of an offer with `count` ids.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    /// The thread with this id is there.
    Begun(usize),
    /// One may begin.
    Open,
    /// None can, any more.
    Over,
}

fn said(word: u32, count: usize) -> Said {
    let index = (word >> birth::COUNT) as usize;
    match word & birth::STATE {
        _ if index >= count => Said::Over,
        birth::BEGUN => Said::Begun(index),
        birth::ENDED | birth::OFFERED | birth::FILLING => Said::Open,
        _ => Said::Over,
    }
}

impl Offer {
    fn has_news(&self) -> bool {
        said(self.thread.channel.birth(), self.ids.len()) != Said::Open
    }

    fn find(&self, is_taken_back: bool) -> Found {
        for _ in 0..ATTEMPTS {
            let word = self.thread.channel.birth();
            let said = said(word, self.ids.len());
            if said == Said::Open && !is_taken_back {
                return Found::Stands;
            }
            if self.thread.channel.end_birth(word) {
                return Found::Ended(if let Said::Begun(index) = said { Some(index) } else { None });
            }
        }
        Found::Spoilt
    }

    /// What has used it is a task from now on.
    fn adopt(&self, engine: &Engine, id: i32) {
        let thread = &self.thread;
        if !std::mem::take(&mut thread.state.lock().is_parked) {
            // Its process is dead.
            return;
        }
        thread.space.parked.lock().retain(|tid| *tid != thread.host.tid);
        engine.parked.fetch_sub(1, Ordering::AcqRel);
        // Else its process is about to end.
        let Some(child) = task::adopt_thread(&self.maker, id) else { return };
        thread.state.lock().task = Some(child.clone());
        let age = ticks().saturating_sub(thread.channel.born());
        thread.host.begin_anew(((u128::from(age) * u128::from(nanoseconds_of_ticks())) >> 32) as u64);
        *child.host.write() = Some(thread.host.clone());
        child.set_address_space(thread.space.clone());
        child.find_in_channel(&thread.channel);
        if !signal::try_leave(&child) {
            thread.host.kick();
        }
    }
}

impl Engine {
    /// Makes tasks of threads that have begun by themselves. To be called before anybody is served.
    #[inline]
    pub(super) fn look_at_births(&self) {
        if self.births.count.load(Ordering::SeqCst) != 0 && self.births.offers.read().iter().any(Offer::has_news) {
            self.settle_births(|_| false);
        }
    }

    /// The same before the call `number` of `task`, which may also be one that no offer outlasts.
    pub(super) fn look_at_births_before(&self, task: &Arc<Task>, number: u64) {
        if self.births.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let is_last_of = |offer: &Offer| Arc::ptr_eq(&offer.maker, task) || task.is_leader();
        match number as u32 {
            linux::__NR_exit => self.settle_births(is_last_of),
            other if leaves_offers(other) => {}
            _ => self.settle_births(|_| true),
        }
    }

    /// See [`take_births_back`].
    pub(super) fn take_births_back(&self, process: Option<&Process>) {
        if self.births.count.load(Ordering::SeqCst) != 0 {
            self.settle_births(|offer| process.is_none_or(|process| std::ptr::eq(&**offer.maker.process(), process)));
        }
    }

    /// The thread is no parked one that may begin by itself. False: it has done so.
    pub(super) fn take_birth_back(&self, thread: &Arc<GuestThread>) -> bool {
        if self.births.count.load(Ordering::SeqCst) != 0 {
            self.settle_births(|offer| Arc::ptr_eq(&offer.thread, thread));
        }
        thread.state.lock().is_parked
    }

    fn settle_births(&self, is_taken_back: impl Fn(&Offer) -> bool) {
        let mut offers = self.births.offers.write();
        offers.retain(|offer| {
            let id = match offer.find(is_taken_back(offer)) {
                Found::Stands => return true,
                Found::Ended(begun) => begun.and_then(|index| offer.ids.get(index)).copied(),
                Found::Spoilt => {
                    offer.thread.process.kill();
                    None
                }
            };
            if let Some(id) = id {
                offer.adopt(self, id);
            }
            offer.maker.kernel().pids.release(&offer.ids);
            false
        });
        self.births.count.store(offers.len(), Ordering::SeqCst);
    }

    /// Offers a thread that is about to be parked to its maker, if that may make others so.
    pub(super) fn offer_birth(&self, thread: &Arc<GuestThread>, maker: &Weak<Task>) {
        let Some(maker) = maker.upgrade().filter(may_make) else { return };
        let host = maker.host.read().clone();
        let Some(by) = host.and_then(|host| self.thread(host.tid)) else { return };
        let is_plain = Arc::ptr_eq(&by.space, &thread.space)
            && Arc::ptr_eq(&by.process, &thread.process)
            && by.space.owner == by.process.pid
            && !by.borrows_memory
            && by.state.lock().task.as_ref().is_some_and(|task| Arc::ptr_eq(task, &maker));
        let mut offers = self.births.offers.write();
        let of_process = offers.iter().filter(|offer| Arc::ptr_eq(&offer.thread.process, &thread.process)).count();
        if !is_plain || of_process >= birth::MOST || offers.len() >= MOST {
            return;
        }
        let kernel = maker.kernel();
        let ids = kernel.pids.reserve(birth::MOST_IDS, kernel.limits.pids);
        let mut words = [0; birth::MOST_IDS];
        if ids.len() < words.len() {
            return kernel.pids.release(&ids);
        }
        words.iter_mut().zip(&ids).for_each(|(word, id)| *word = *id as u32);
        thread.channel.set_beginning(BEGIN_AT_ONCE);
        thread.channel.offer_birth(by.slot as u32, &words);
        offers.push(Offer { thread: thread.clone(), maker, ids });
        self.births.count.store(offers.len(), Ordering::SeqCst);
    }
}

/// Makes tasks of threads that have begun without our being asked. No lock of a process's or a task's may be held.
pub(crate) fn find_births(kernel: &Kernel) {
    if let Some(engine) = kernel.engine() {
        engine.look_at_births();
    }
}

/// From now on nobody begins in `process` (in any one) without our being asked, before it is offered anew, and who has is known.
/// As above.
pub(crate) fn take_births_back(kernel: &Kernel, process: Option<&Process>) {
    if let Some(engine) = kernel.engine() {
        engine.take_births_back(process);
    }
}

/// Whether threads of its own need not be told when it makes them: nobody looks, or counts them, and the host has nothing to be told.
fn may_make(maker: &Arc<Task>) -> bool {
    let process = maker.process();
    let kernel = maker.kernel();
    let is_plain = {
        let scheduling = maker.scheduling.read();
        scheduling.nice == kernel.nice && scheduling.affinity.is_none() && !scheduling.reset_on_fork
    };
    let is_ending = process.signals.lock().group_exit.is_some() || maker.signals.lock().killed;
    is_plain
        && !is_ending
        && !maker.is_gone()
        && !maker.is_watched()
        && !is_filtered(maker)
        && kernel.policy.get().is_none_or(|policy| !policy.needs_births())
        && process.rlimit(RLIMIT_NPROC).current == u64::MAX
}

/// Calls that change nothing of what a thread has from its maker, nor who finds it, and are made often. All others take offers back.
pub(super) fn leaves_offers(number: u32) -> bool {
    matches!(
        number,
        linux::__NR_read
            | linux::__NR_write
            | linux::__NR_open
            | linux::__NR_close
            | linux::__NR_stat
            | linux::__NR_fstat
            | linux::__NR_lstat
            | linux::__NR_poll
            | linux::__NR_lseek
            | linux::__NR_mmap
            | linux::__NR_mprotect
            | linux::__NR_munmap
            | linux::__NR_brk
            | linux::__NR_pread64
            | linux::__NR_pwrite64
            | linux::__NR_readv
            | linux::__NR_writev
            | linux::__NR_access
            | linux::__NR_madvise
            | linux::__NR_nanosleep
            | linux::__NR_sendto
            | linux::__NR_recvfrom
            | linux::__NR_sendmsg
            | linux::__NR_recvmsg
            | linux::__NR_accept
            | linux::__NR_accept4
            | linux::__NR_connect
            | linux::__NR_socket
            | linux::__NR_shutdown
            | linux::__NR_getdents64
            | linux::__NR_readlink
            | linux::__NR_futex
            | linux::__NR_epoll_wait
            | linux::__NR_epoll_ctl
            | linux::__NR_epoll_pwait
            | linux::__NR_clock_gettime
            | linux::__NR_clock_nanosleep
            | linux::__NR_openat
            | linux::__NR_newfstatat
            | linux::__NR_statx
            | linux::__NR_getrandom
            | linux::__NR_clone
            | linux::__NR_clone3
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_platform::channel::Channel;

    #[test]
    fn what_is_made_up_is_no_thread() {
        let word = |state: u32, index: u32| state | index << birth::COUNT;
        assert_eq!(said(word(birth::BEGUN, 15), 16), Said::Begun(15));
        for state in [birth::ENDED, birth::OFFERED, birth::FILLING] {
            assert_eq!(said(word(state, 3), 16), Said::Open);
        }
        for over in [word(birth::NONE, 0), word(birth::ENDED, 16), word(birth::BEGUN, 16), word(200, 0), u32::MAX] {
            assert_eq!(said(over, 16), Said::Over);
        }
    }

    #[test]
    fn an_offer_ends_once_and_as_it_was_seen() {
        let (channel, _memory) = Channel::create().unwrap();
        channel.offer_birth(3, &[7; birth::MOST_IDS]);
        let seen = channel.birth();
        assert_eq!(said(seen, birth::MOST_IDS), Said::Open);
        assert!(!channel.end_birth(seen + 1) && channel.birth() == seen);
        assert!(channel.end_birth(seen) && !channel.end_birth(seen));
        assert_eq!(said(channel.birth(), birth::MOST_IDS), Said::Over);
    }
}
