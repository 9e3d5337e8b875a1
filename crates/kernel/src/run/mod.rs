//! Running application processes: the loop that receives their calls, serves them, and answers.
//!
//! [`Engine`] holds what is about the host: the zygote and its pool, every guest thread with its channel, the listeners.
//! Parts: `worker` (threads that receive and serve), `spin` (serving without rings), `wake` (where woken calls go on), `places` (and those that did not wait), `serve` (one
//! call, from request to reply), `enrol` (new threads and processes present themselves), `pool` (processes that wait for a
//! program), `births` (threads that are made and end without being told), `infancy` (processes that go on before they present themselves), `reaper` (deaths), `space` (what is known of an address space), `patch` (code that is patched while it runs), `hold` (and who waits meanwhile), `program` (ELF images and stacks), `exec` (giving a
//! process its program), `loan` (what stubs answer about the file that was used last), `ahead` (and about the names that come
//! next), `filled` (and about those that are not there), `known` (and that it has asked about), `attributes` (and how long that can be believed), `streams` (and sockets that it was told of), `events` (and interest lists), `objects` (and eventfds and pipes), `pipes` (and pipes that two share), `files` (file operations from outside).
//!
//! Exactly one thread receives on each listener; a call that has to wait leaves it to that, and whoever is about to block
//! it in host work passes the receiving on first ([`crate::context::Lead`]). Lock order: `Engine::threads` > `GuestThread::state`; both are released before a handler runs.

mod ahead;
mod attributes;
mod births;
mod channels;
mod direct;
mod enrol;
mod events;
mod exec;
mod files;
mod filled;
#[cfg(test)]
mod fuzz_tests;
mod hold;
mod infancy;
mod known;
mod loan;
mod must_ring;
mod objects;
mod opens;
mod park;
mod patch;
mod pipes;
mod places;
mod pool;
pub(crate) mod program;
mod reaper;
mod serve;
mod space;
mod spawn;
mod spin;
mod streams;
mod wake;
mod worker;

pub(crate) use births::{find_births, take_births_back};
pub use exec::{execute, Beginning, Execution, MAXIMUM_STRING};
pub use files::{Entry, OutsideFiles};
pub(crate) use infancy::{await_infant, find_infant, find_infants};
pub(crate) use loan::Watch;
pub(crate) use space::PlainCode;
pub use space::{AddressSpace, Brk};
pub use spawn::{spawn, Spawn, SpawnError};

use crate::context::{Continuation, NativePlan};
use crate::signal;
use crate::task::seccomp::is_filtered;
use crate::task::Task;
use crate::time::queue::TimerQueue;
use crate::Context;
use parking_lot::{Mutex, RwLock};
use skerry_platform::beside::{self, Bound};
use skerry_platform::channel::Channel;
use skerry_platform::engine::{HostProcess, HostThread};
use skerry_platform::layout::{Reply, BEGIN_ASKING, BEGIN_AT_ONCE};
use skerry_platform::listener::Listener;
use skerry_platform::processor::{nanoseconds_of_ticks, ticks};
use skerry_platform::zygote::Zygote;
use skerry_platform::HostError;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// The host's side of a sandbox.
pub struct Engine {
    this: Weak<Engine>,
    timers: Arc<TimerQueue>,
    zygote: Zygote,
    threads: RwLock<HashMap<i32, Arc<GuestThread>, BuildHasherDefault<TidHasher>>>,
    enrolments: Mutex<HashMap<[u64; 2], Arc<enrol::Enrolment>>>,
    pool: pool::Pool,
    workers: worker::Workers,
    spinner: spin::Spinner,
    places: places::Places,
    reaper: reaper::Reaper,
    channels: channels::Channels,
    loans: loan::Loans,
    /// How many memories for pipes there have been.
    pipes_made: AtomicU32,
    /// Each that there is has one of these.
    pipes_shared: Arc<()>,
    /// Host processes that nobody has any more and that are not dead yet.
    leaving: AtomicUsize,
    /// Guest memory that comes with a call is used, and results go with its answer.
    marshalling: AtomicBool,
    /// Host threads that have no task.
    parked: AtomicUsize,
    /// Threads are parked (unless a test switched it off).
    parks: AtomicBool,
    births: births::Births,
    infants: infancy::Infants,
    /// Not given to anybody yet.
    tokens: Mutex<Vec<[u64; 2]>>,
}

/// How many tokens the host is asked for at once.
const TOKENS: usize = 16;

/// For the host's thread ids, which nobody chooses: each call looks one up.
#[derive(Default)]
struct TidHasher(u64);

impl Hasher for TidHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_i32(byte.into());
        }
    }

    fn write_i32(&mut self, tid: i32) {
        self.0 = (self.0 ^ tid as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A thread of an application, as the host has it.
pub(crate) struct GuestThread {
    host: Arc<HostThread>,
    process: Arc<HostProcess>,
    channel: Arc<Channel>,
    /// Of the first thread of a process: the channel's memory, for [`channels`].
    memory: Option<Arc<OwnedFd>>,
    /// The channel's memory, until the thread has it.
    undelivered: Mutex<Option<Arc<OwnedFd>>>,
    listener: Arc<Door>,
    space: Arc<AddressSpace>,
    slot: u64,
    /// In the pool: what it has mapped for its program.
    stack: Option<pool::PreparedStack>,
    /// Its memory is that of another process too (vfork(2)).
    borrows_memory: bool,
    pace: spin::Pace,
    standing: places::Standing,
    reading: loan::Reading,
    listing: loan::Reading,
    shelf: loan::Shelf,
    streams: streams::Lent,
    events: events::Lent,
    objects: objects::Lent,
    ahead: Mutex<ahead::Ahead>,
    filled: Mutex<filled::Filled>,
    last_name: Mutex<known::LastName>,
    after_waking: wake::AfterWaking,
    children: Arc<wake::Children>,
    /// It is kept on one CPU as long as a child that it has made is to begin there.
    bound: Mutex<std::sync::Weak<Bound>>,
    must_ring: must_ring::MustRing,
    /// Nothing that it still asks for is served.
    retired: AtomicBool,
    state: Mutex<ThreadState>,
}

impl GuestThread {
    /// Whether what the host does when the thread ends may be seen by others than its own process, so that nobody must
    /// go on before.
    fn must_be_seen_dead(&self, task: &Task) -> bool {
        self.borrows_memory && task.clear_child_tid() != 0
    }

    /// Whether its stub may do by itself what calls are there for, and put off what can be: not where each call is to be seen
    /// (traces, guests' filters), nor in memory that is another process's (vfork(2)).
    fn acts_unseen(&self, context: &Context) -> bool {
        !context.kernel().trace
            && self.space.owner == self.process.pid
            && !is_filtered(context.task)
            && !context.task.traced.load(Ordering::Relaxed)
    }

    /// Says how `task`, which is this thread's from now on, begins: at once, unless a signal is to be looked at first.
    fn begin(&self, task: &Task) {
        let beginning = if signal::try_leave(task) { BEGIN_AT_ONCE } else { BEGIN_ASKING };
        self.channel.set_beginning(beginning);
    }
}

#[derive(Default)]
struct ThreadState {
    /// `None` while it waits in the pool, or is parked.
    task: Option<Arc<Task>>,
    is_parked: bool,
    /// Who has made its thread, or the thread that is parked before.
    maker: Weak<Task>,
    /// The request that is being served, or was served last.
    sequence: u32,
    /// Its ring; a ring of the same request replaces it. `None` while its thread waits by spinning.
    ring: Option<u64>,
    /// Where the certificate goes, if that ring is the host's clone(2).
    certificate: Option<u64>,
    /// What is to be done once it has rung.
    when_rung: Option<Box<NativePlan>>,
    in_service: bool,
    /// Its requests are not answered now; what the answer will be ([`hold`]).
    is_held: bool,
    held_back: Option<Reply>,
    /// The answer to `sequence`, once there is one.
    reply: Option<Reply>,
    /// What NATIVE_DONE goes on with.
    continuation: Option<Continuation>,
    /// The handler's frame that it is building.
    frame: Option<crate::signal::HandlerFrame>,
    /// Until the first request of a process.
    first_run: Option<wake::FirstRun>,
    /// The clone(2) that it may make now.
    clone: Option<Arc<enrol::Enrolment>>,
}

/// A listener, with who uses it.
pub(crate) struct Door {
    listener: Listener,
    /// Host processes behind this filter.
    users: AtomicUsize,
    closed: AtomicBool,
    /// The receiver is in its wait (or just around it).
    receiving: AtomicBool,
    /// Who receives now.
    receiver: Mutex<Option<HostThread>>,
    /// When it last went over to the CPU of who rang.
    followed: AtomicU64,
}

impl Door {
    fn new(listener: Listener) -> Arc<Door> {
        Arc::new(Door {
            listener,
            users: AtomicUsize::new(1),
            closed: AtomicBool::new(false),
            receiving: AtomicBool::new(false),
            receiver: Mutex::new(None),
            followed: AtomicU64::new(0),
        })
    }

    fn add_user(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// The calling receiver has served a ring on another CPU than `cpu`, from which that came. As long as it is in this one's queue, it would be
    /// woken here again, in between somebody else's work.
    fn follow(&self, cpu: u32) {
        let (now, last) = (ticks(), self.followed.load(Ordering::Relaxed));
        if now.wrapping_sub(last) >= places::FOLLOWS {
            self.followed.store(now, Ordering::Relaxed);
            beside::go_over(cpu);
        }
    }

    /// One process less. The last one closes the door, and true says that its receiver must be told.
    fn remove_user(&self) -> bool {
        let last = self.users.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.closed.store(true, Ordering::Release);
        }
        last
    }
}

impl Engine {
    /// Starts the pool, the reaper and the first receivers. `zygote` was started before the sentry confined itself.
    /// `timers` end waits that have a deadline.
    pub fn start(zygote: Zygote, timers: Arc<TimerQueue>) -> Result<Arc<Engine>, HostError> {
        skerry_platform::engine::install_interrupter();
        // Counts from here on.
        nanoseconds_of_ticks();
        let reaper = reaper::Reaper::new()?;
        let engine = Arc::new_cyclic(|this| Engine {
            this: this.clone(),
            timers,
            zygote,
            threads: RwLock::default(),
            enrolments: Mutex::default(),
            pool: pool::Pool::default(),
            workers: worker::Workers::default(),
            spinner: spin::Spinner::new(),
            places: places::Places::new(),
            reaper,
            channels: channels::Channels::default(),
            loans: loan::Loans::default(),
            pipes_made: AtomicU32::new(0),
            pipes_shared: Arc::default(),
            leaving: AtomicUsize::new(0),
            marshalling: AtomicBool::new(true),
            parked: AtomicUsize::new(0),
            parks: AtomicBool::new(true),
            births: births::Births::default(),
            infants: infancy::Infants::default(),
            tokens: Mutex::default(),
        });
        reaper::Reaper::run(&engine)?;
        pool::Pool::run(&engine)?;
        Ok(engine)
    }

    /// Waiting calls keep their threads from now on: for tests of how it is without.
    pub(crate) fn switch_suspension_off(&self) {
        self.workers.switch_suspension_off();
    }

    /// All guest memory is read and written where it is from now on: for tests of how it is without.
    pub(crate) fn switch_marshalling_off(&self) {
        self.marshalling.store(false, Ordering::Relaxed);
    }

    /// No thread is parked from now on: as above.
    pub(crate) fn switch_parking_off(&self) {
        self.parks.store(false, Ordering::Relaxed);
    }

    /// Processes present themselves before they run from now on: as above.
    pub(crate) fn switch_infancy_off(&self) {
        self.infants.ask_at_once();
    }

    /// Loans do not end with time from now on: as above.
    pub(crate) fn loans_never_expire(&self) {
        self.loans.never_expire();
    }

    /// Nobody spins from now on: where time on CPUs is limited, and for tests of how it is without.
    pub(crate) fn switch_spinning_off(&self) {
        self.spinner.switch_off();
    }

    /// Spinning does not depend on the host's load from now on: for tests.
    pub(crate) fn heed_no_load(&self) {
        self.spinner.heed_no_load();
    }

    /// Nor on how often a thread calls: as above.
    pub(crate) fn heed_no_pace(&self) {
        self.spinner.heed_no_pace();
    }

    fn thread(&self, tid: i32) -> Option<Arc<GuestThread>> {
        self.threads.read().get(&tid).cloned()
    }

    /// A token that nobody can guess.
    fn token(&self) -> [u64; 2] {
        let mut tokens = self.tokens.lock();
        if let Some(token) = tokens.pop() {
            return token;
        }
        let mut bytes = [0u8; 16 * TOKENS];
        // Cannot fail for so few bytes once the host has booted; a zero token would only be refused as a duplicate.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let word = |at: usize| std::array::from_fn(|byte| bytes[at + byte]);
        tokens
            .extend((0..TOKENS).map(|index| [u64::from_ne_bytes(word(index * 16)), u64::from_ne_bytes(word(index * 16 + 8))]));
        tokens.pop().unwrap_or_default()
    }

    /// Where the vDSO lies in every application process.
    pub fn vdso(&self) -> u64 {
        self.zygote.vdso
    }
}
