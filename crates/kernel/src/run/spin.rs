//! Spinning: where a CPU is free, a worker watches the channels of the threads that call most, and answers from there
//! what it sees, so that neither side enters the host's kernel (see `stub/src/handoff.rs` for the other side).
//!
//! One worker of a sandbox at the most spins ([`Spinner::session`]), and only when that harms nobody: not where the
//! sandbox has a quota of CPU time or one CPU, not while threads of the whole host have to wait for CPUs
//! (looked at before and again and again), and not on the CPU of the thread that it watches. A thread is watched once
//! several calls in a row came by ringing with little between them, none of which had to wait or woke another one: a
//! hand-off between threads is best made on one CPU, by ringing. It is watched no longer when it has not called for some
//! tens of microseconds, when it rings all the same, when a call of its has to wait, and when its process uses less CPU
//! time than we do for it. How often it paid off decides how many calls in a row the next time takes ([`Pace`]).
//!
//! Lock order: `Spinner::watched` is innermost, but for a worker's duty.

use super::worker::{Holder, Workers};
use super::{Engine, GuestThread};
use parking_lot::Mutex;
use skerry_abi::raw::general as linux;
use skerry_platform::channel::asks;
use skerry_platform::cpu_clock::process_cpu_time_ns;
use skerry_platform::processor::{current_cpu, ticks, Cpus, Demand};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

// Times are in ticks of the processor's clock, of which a microsecond has some thousands.

/// Between two calls that follow each other closely.
const CLOSE: u64 = 60_000;
/// How long a thread is watched without a call.
const PATIENCE: u64 = 130_000;
/// Between two looks at how many threads want to run.
const LOOK_AROUND: u64 = 600_000;
/// For how long somebody may have to wait for a CPU between two such looks: what wakes up for a moment only.
const MOST_WAITED_US: u64 = 30;
/// Between two looks at what CPU time the watched threads use.
const AUDIT: Duration = Duration::from_millis(50);
/// After these the host has run something else in our place.
const PREEMPTED: u64 = 250_000;
/// How long nobody is watched after the CPU was wanted by others: at first, as what wakes up for a moment is soon gone, and where
/// it is wanted again and again.
const SHORTEST_QUIET: u64 = 300_000;
const LONGEST_QUIET: u64 = 6_000_000;
/// Threads that are watched at once.
const MOST_WATCHED: usize = 8;
/// Close calls in a row before a thread is watched: at first, and after spinning has not paid off again and again.
const FEWEST_CLOSE: u32 = 12;
const MOST_CLOSE: u32 = 4096;
/// Calls seen for which the start of a session has paid off.
const PAYS: u32 = 48;
/// Rings in a row of a thread that could have spun.
const MOST_RINGS: u32 = 3;
/// Looks at all channels between two looks at the clock.
const LOOKS: u32 = 8;
/// Calls in a row without a look at the clock.
const MOST_IN_A_ROW: u32 = 64;

/// What decides whether a thread is watched.
pub(super) struct Pace {
    /// When its last ring was answered.
    answered: AtomicU64,
    /// Calls in a row that were close to each other and did not wait.
    close: AtomicU32,
    /// How many of these it takes.
    needed: AtomicU32,
    /// Somebody watches it, or is about to.
    watched: AtomicBool,
    /// Calls that it rang for while it was watched, since the last one that was seen.
    rings: AtomicU32,
    /// Where its last ring was served: on its own CPU, most likely.
    cpu: AtomicU32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            answered: AtomicU64::new(0),
            close: AtomicU32::new(0),
            needed: AtomicU32::new(FEWEST_CLOSE),
            watched: AtomicBool::new(false),
            rings: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
        }
    }
}

impl Pace {
    /// A ring that arrived at `began` has been answered at `ended`. True: the thread is worth being watched.
    fn count(&self, began: u64, ended: u64) -> bool {
        let last = self.answered.swap(ended, Ordering::Relaxed);
        if began.wrapping_sub(last) > CLOSE {
            self.close.store(0, Ordering::Relaxed);
            return false;
        }
        let close = self.close.load(Ordering::Relaxed) + 1;
        let enough = close >= self.needed.load(Ordering::Relaxed);
        self.close.store(if enough { 0 } else { close }, Ordering::Relaxed);
        enough
    }

    /// Its calls wait or wake others.
    fn start_over(&self) {
        self.close.store(0, Ordering::Relaxed);
    }

    fn settle(&self, seen: u32) {
        let needed = self.needed.load(Ordering::Relaxed);
        let needed = if seen >= PAYS { FEWEST_CLOSE } else { (needed * 2).min(MOST_CLOSE) };
        self.needed.store(needed, Ordering::Relaxed);
    }
}

/// What an engine's spinning needs.
pub(super) struct Spinner {
    /// `None`: there is no spinning here.
    demand: Option<Demand>,
    cpus: Cpus,
    off: AtomicBool,
    /// Spins whatever the host's load is.
    heeds_no_load: AtomicBool,
    /// Spins for whoever rings.
    heeds_no_pace: AtomicBool,
    /// Nobody begins to spin before that; and for how long that has been.
    quiet_until: AtomicU64,
    quiet: AtomicU64,
    watched: Mutex<Watched>,
    /// The worker that spins was bound to the CPUs on which nobody called.
    moved: AtomicBool,
    /// There are threads in `watched` that the session does not know yet.
    more: AtomicBool,
}

#[derive(Default)]
struct Watched {
    /// A worker spins, or is on its way to it.
    active: bool,
    threads: Vec<Arc<GuestThread>>,
}

/// One thread of a session.
struct Entry {
    thread: Arc<GuestThread>,
    /// The line's state that was dealt with last.
    state: u64,
    /// When it called last.
    called: u64,
    seen: u32,
    /// When its process's CPU time was looked at last, and what it was.
    audited: (Instant, u64),
}

impl Spinner {
    pub fn new() -> Spinner {
        let cpus = Cpus::usable();
        Spinner {
            demand: if cpus.count() > 1 { Demand::open() } else { None },
            cpus,
            off: AtomicBool::new(false),
            heeds_no_load: AtomicBool::new(false),
            heeds_no_pace: AtomicBool::new(false),
            quiet_until: AtomicU64::new(0),
            quiet: AtomicU64::new(SHORTEST_QUIET),
            watched: Mutex::default(),
            moved: AtomicBool::new(false),
            more: AtomicBool::new(false),
        }
    }

    /// Whether anybody may spin here, as far as CPUs go.
    pub fn is_possible(&self) -> bool {
        self.demand.is_some() && !self.off.load(Ordering::Relaxed)
    }

    /// Never spins from now on.
    pub fn switch_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    /// Does not look at the host's load: for tests, which run where others do.
    pub fn heed_no_load(&self) {
        self.heeds_no_load.store(true, Ordering::Relaxed);
    }

    /// Does not look at how often a thread calls: for tests, in which short programs are to go through all of this.
    pub fn heed_no_pace(&self) {
        self.heeds_no_pace.store(true, Ordering::Relaxed);
    }

    /// A ring of `thread` has been served, in one go or not (`at_once`: it neither waited nor woke anybody).
    pub fn after_ring(&self, engine: &Arc<Engine>, thread: &Arc<GuestThread>, began: u64, at_once: bool) {
        let pace = &thread.pace;
        if !at_once {
            return pace.start_over();
        }
        if pace.watched.load(Ordering::Relaxed) {
            // It is on the spinner's CPU, or the spinner is not on any: it had better not wait for that.
            if pace.rings.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_RINGS {
                thread.channel.set_watch(None);
            }
            return;
        }
        let now = ticks();
        let enough = pace.count(began, now) || self.heeds_no_pace.load(Ordering::Relaxed);
        if !enough || self.demand.is_none() || self.off.load(Ordering::Relaxed) {
            return;
        }
        if now < self.quiet_until.load(Ordering::Relaxed) {
            return;
        }
        pace.cpu.store(current_cpu(), Ordering::Relaxed);
        let begins = {
            let mut watched = self.watched.lock();
            if watched.threads.len() >= MOST_WATCHED {
                return;
            }
            // Most often the caller waits in its next ring by now, and we alone run.
            if !watched.active && !self.has_free_cpu(1) {
                self.be_quiet(now);
                return;
            }
            pace.watched.store(true, Ordering::Relaxed);
            pace.rings.store(0, Ordering::Relaxed);
            watched.threads.push(thread.clone());
            self.more.store(true, Ordering::Release);
            !std::mem::replace(&mut watched.active, true)
        };
        if begins {
            Workers::give_spinning(engine);
        }
    }

    /// Whether the host has CPUs for `more` threads beside those that want to run now.
    fn has_free_cpu(&self, more: u32) -> bool {
        let running = self.demand.as_ref().and_then(Demand::running);
        running.is_some_and(|running| running + more <= self.cpus.count()) || self.heeds_no_load.load(Ordering::Relaxed)
    }

    /// Whether the host has a CPU with nothing to do for a thread that waits in a ring, which the calling worker answers: neither of the two
    /// is in the way of others, and both may be among those that want to run.
    pub fn has_idle_cpu(&self) -> bool {
        let running = self.demand.as_ref().and_then(Demand::running);
        running.is_some_and(|running| running <= self.cpus.count() + 1)
    }

    fn waited_us(&self) -> Option<u64> {
        self.demand.as_ref().and_then(Demand::waited_us)
    }

    /// Whether a thread of the host has had to wait for a CPU since the last look, when `waited` was told.
    fn is_in_the_way(&self, waited: &mut Option<u64>) -> bool {
        if self.heeds_no_load.load(Ordering::Relaxed) {
            return false;
        }
        match (std::mem::replace(waited, self.waited_us()), *waited) {
            (Some(before), Some(now)) => now.saturating_sub(before) > MOST_WAITED_US,
            _ => !self.has_free_cpu(0),
        }
    }

    fn be_quiet(&self, now: u64) {
        let (last, length) = (self.quiet_until.load(Ordering::Relaxed), self.quiet.load(Ordering::Relaxed));
        let is_rare = now.wrapping_sub(last) > 8 * length;
        let length = if is_rare { SHORTEST_QUIET } else { (2 * length).min(LONGEST_QUIET) };
        self.quiet.store(length, Ordering::Relaxed);
        self.quiet_until.store(now.wrapping_add(length), Ordering::Relaxed);
    }

    /// The calling worker spins no longer: all that was watched rings from now on.
    pub fn release(&self) {
        if self.moved.swap(false, Ordering::Relaxed) {
            self.cpus.take();
        }
        let mut watched = self.watched.lock();
        watched.active = false;
        self.more.store(false, Ordering::Relaxed);
        for thread in watched.threads.drain(..) {
            unwatch(&thread);
        }
    }

    /// Watches, and serves what comes, until nothing comes any more, the CPU is wanted by others, or a call has to wait.
    /// `woke` tells whether a call has woken another one, which the calling worker is to go on with. True: the worker is to
    /// give the role up; false: a call has waited, it was given up before that, and this may be another worker.
    pub fn session(&self, engine: &Arc<Engine>, woke: impl Fn() -> bool) -> bool {
        if self.is_on_a_callers_cpu() && self.cpus.take_but(current_cpu()) {
            self.moved.store(true, Ordering::Relaxed);
        }
        self.watch(engine, woke)
    }

    /// On the CPU of a thread that we watch we would keep it from calling.
    fn is_on_a_callers_cpu(&self) -> bool {
        let here = current_cpu();
        self.watched.lock().threads.iter().any(|thread| thread.pace.cpu.load(Ordering::Relaxed) == here)
    }

    fn watch(&self, engine: &Arc<Engine>, woke: impl Fn() -> bool) -> bool {
        let mut entries: Vec<Entry> = Vec::with_capacity(MOST_WATCHED);
        let mut cpu = current_cpu();
        let mut now = ticks();
        let mut looked_around = now;
        let mut waited = self.waited_us();
        let (mut idle_looks, mut in_a_row) = (0, 0);
        let mut served_since = true;
        loop {
            if self.more.load(Ordering::Acquire) {
                self.take_more(&mut entries, cpu, now);
            }
            let mut found = false;
            for entry in &mut entries {
                let state = entry.thread.channel.poll();
                if state == entry.state || !asks(state) {
                    continue;
                }
                entry.state = state;
                found = true;
                match serve(engine, &entry.thread) {
                    Served::InOneGo => {
                        entry.thread.pace.rings.store(0, Ordering::Relaxed);
                        entry.called = ticks();
                        entry.seen = entry.seen.saturating_add(1);
                    }
                    Served::ByItsRing => {}
                    Served::Waits => {
                        entry.thread.pace.settle(0);
                        return false;
                    }
                }
                if woke() {
                    entry.thread.pace.settle(0);
                    settle(&entries);
                    return true;
                }
            }
            if found {
                in_a_row += 1;
                served_since = true;
                if in_a_row < MOST_IN_A_ROW {
                    continue;
                }
            } else {
                std::hint::spin_loop();
                idle_looks += 1;
                if idle_looks < LOOKS {
                    continue;
                }
            }
            (idle_looks, in_a_row) = (0, 0);
            let before = std::mem::replace(&mut now, ticks());
            let mut unwanted = !std::mem::take(&mut served_since) && now.wrapping_sub(before) > PREEMPTED;
            if now.wrapping_sub(looked_around) > LOOK_AROUND {
                looked_around = now;
                unwanted |= self.is_in_the_way(&mut waited);
                audit(&mut entries);
            }
            let here = current_cpu();
            if here != cpu {
                cpu = here;
                entries.iter().for_each(|entry| entry.thread.channel.set_watch(Some(cpu)));
            }
            if unwanted {
                self.be_quiet(now);
            } else {
                self.drop_idle(&mut entries, now);
                if !entries.is_empty() || self.more.load(Ordering::Acquire) {
                    continue;
                }
            }
            settle(&entries);
            return true;
        }
    }

    fn take_more(&self, entries: &mut Vec<Entry>, cpu: u32, now: u64) {
        let watched = self.watched.lock();
        self.more.store(false, Ordering::Relaxed);
        for thread in &watched.threads {
            if entries.iter().any(|entry| Arc::ptr_eq(&entry.thread, thread)) {
                continue;
            }
            let state = thread.channel.poll();
            let audited = (Instant::now(), process_cpu_time_ns(thread.process.pid).unwrap_or(0));
            entries.push(Entry { thread: thread.clone(), state, called: now, seen: 0, audited });
            // On its own CPU it would have to wait until we are gone.
            if thread.pace.cpu.load(Ordering::Relaxed) != cpu {
                // Until now it could not but ring.
                thread.pace.rings.store(0, Ordering::Relaxed);
                thread.channel.set_watch(Some(cpu));
            }
        }
    }

    /// Lets go of the threads that have not called for long, or that ring.
    fn drop_idle(&self, entries: &mut Vec<Entry>, now: u64) {
        let is_over = |entry: &Entry| {
            now.wrapping_sub(entry.called) as i64 > PATIENCE as i64
                || entry.thread.pace.rings.load(Ordering::Relaxed) >= MOST_RINGS
                || entry.thread.pace.cpu.load(Ordering::Relaxed) == current_cpu() && entry.seen == 0
                || entry.thread.retired.load(Ordering::Relaxed)
        };
        if !entries.iter().any(is_over) {
            return;
        }
        let mut watched = self.watched.lock();
        entries.retain(|entry| {
            if !is_over(entry) {
                return true;
            }
            watched.threads.retain(|thread| !Arc::ptr_eq(thread, &entry.thread));
            entry.thread.pace.settle(entry.seen);
            unwatch(&entry.thread);
            false
        });
    }
}

fn settle(entries: &[Entry]) {
    entries.iter().for_each(|entry| entry.thread.pace.settle(entry.seen));
}

fn unwatch(thread: &GuestThread) {
    thread.channel.set_watch(None);
    thread.pace.watched.store(false, Ordering::Relaxed);
}

/// Who makes us burn much more than it works itself is not watched again soon. (The host tells CPU time late by a few
/// milliseconds.)
fn audit(entries: &mut [Entry]) {
    for entry in entries {
        let (last, used_then) = entry.audited;
        let elapsed = last.elapsed();
        if elapsed < AUDIT {
            continue;
        }
        let used = process_cpu_time_ns(entry.thread.process.pid).unwrap_or(0);
        entry.audited = (Instant::now(), used);
        if u128::from(used.saturating_sub(used_then)) < elapsed.as_nanos() / 4 {
            entry.seen = 0;
            entry.thread.pace.needed.store(MOST_CLOSE, Ordering::Relaxed);
            entry.thread.pace.rings.store(MOST_RINGS, Ordering::Relaxed);
        }
    }
}

enum Served {
    InOneGo,
    /// Nothing was done: its maker rings for it.
    ByItsRing,
    /// It waited, and this may be another thread of ours now.
    Waits,
}

fn serve(engine: &Arc<Engine>, thread: &Arc<GuestThread>) -> Served {
    if thread.retired.load(Ordering::Acquire) {
        return Served::ByItsRing;
    }
    let holder = Holder::spinning(engine, &thread.listener);
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.serve_seen(&holder, thread)));
    if served.is_err() {
        thread.process.kill();
    }
    match served {
        _ if holder.has_waited() => Served::Waits,
        Ok(false) => Served::ByItsRing,
        _ => Served::InOneGo,
    }
}

/// Calls that are left to a ring: those that need one, that wait more often than not, or that end what would spin.
pub(super) fn is_left_to_ring(number: u64) -> bool {
    matches!(
        number as u32,
        linux::__NR_mmap
            | linux::__NR_clone
            | linux::__NR_fork
            | linux::__NR_vfork
            | linux::__NR_execve
            | linux::__NR_execveat
            | linux::__NR_exit
            | linux::__NR_exit_group
            | linux::__NR_wait4
            | linux::__NR_waitid
            | linux::__NR_nanosleep
            | linux::__NR_clock_nanosleep
            | linux::__NR_pause
            | linux::__NR_rt_sigsuspend
            | linux::__NR_rt_sigtimedwait
    )
}
