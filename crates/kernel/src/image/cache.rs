//! Which files have an image, and when one is made.

use super::elf::Source;
use super::{build, Image, Run};
use crate::fs::file::FileOperations;
use crate::fs::inode::Device;
use crate::fs::proc::MappedNames;
use parking_lot::Mutex;
use rustix::fs::Stat;
use skerry_platform::engine::NativeCall;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often a file is mapped to be run before an image is made for it.
const USES_BEFORE: u32 = 2;
/// Files that are remembered.
const MAXIMUM_FILES: usize = 256;
/// Bytes of all images together.
const MAXIMUM_BYTES: u64 = 4 << 20;
/// Images that nobody has used for so long make room for others.
const IDLE: Duration = Duration::from_secs(60);
/// A file that was changed less than this ago might be changed once more without its times showing it.
const SETTLED: Duration = Duration::from_secs(2);
/// nice(2) of the thread that makes images.
const NICENESS: i32 = 15;
/// On a machine whose CPUs are all taken that thread may get next to nothing. Whoever has waited for so long has another one make them
/// that is not nice.
const PATIENCE: Duration = Duration::from_secs(1);

/// Images of one kernel.
pub struct Images {
    enabled: AtomicBool,
    state: Mutex<State>,
    names: Arc<MappedNames>,
}

#[derive(Default)]
struct State {
    files: HashMap<(u64, u64), Known>,
    waiting: VecDeque<Order>,
    /// A thread is at work on what waits, and on this.
    working: bool,
    at_work: Option<Order>,
    /// So is one that is not nice.
    hurrying: bool,
}

/// An image that is to be made.
#[derive(Clone)]
struct Order {
    identity: (u64, u64),
    version: Version,
    file: Arc<OwnedFd>,
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

struct Known {
    version: Version,
    used: Instant,
    file: Arc<OwnedFd>,
    stage: Stage,
}

/// What was mapped of a file that has no image so far.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    identity: (u64, u64),
    version: Version,
}

/// Whether there is an image of a file.
enum Found {
    Image(Arc<Image>),
    NotYet,
    Never,
}

/// What has become of a file that was mapped without its image.
pub enum Later {
    /// It may still get one.
    NotYet,
    Never,
    Ready {
        image: Arc<Image>,
        /// Its pages, for whoever may stand in the file's own.
        pages: Arc<OwnedFd>,
        file: Arc<OwnedFd>,
    },
}

enum Stage {
    Seen(u32),
    /// Since then.
    Waiting(Instant),
    /// There is nothing to gain.
    Plain,
    Ready(Arc<Image>),
}

impl Known {
    fn bytes(&self) -> u64 {
        match &self.stage {
            Stage::Ready(image) => image.bytes(),
            _ => 0,
        }
    }
}

fn identify(status: &Stat) -> ((u64, u64), Version) {
    let version = Version {
        size: status.st_size,
        modified: (status.st_mtime, status.st_mtime_nsec),
        changed: (status.st_ctime, status.st_ctime_nsec),
    };
    ((status.st_dev, status.st_ino), version)
}

impl Version {
    fn is_settled(&self) -> bool {
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(self.changed.0.max(0).unsigned_abs());
        changed.elapsed().is_ok_and(|age| age > SETTLED)
    }
}

impl Images {
    pub fn new(names: &Arc<MappedNames>) -> Arc<Images> {
        Arc::new(Images { enabled: AtomicBool::new(true), state: Mutex::default(), names: names.clone() })
    }

    /// From now on every file is mapped as it is.
    pub fn switch_off(&self) {
        self.enabled.store(false, Ordering::Relaxed);
    }

    /// Adds what is to be laid over a private, executable mapping of `file` that the last of `calls` makes; where there is no
    /// image that could be, what to ask [`Images::later`] for.
    pub fn lay_over(
        self: &Arc<Self>,
        file: &dyn FileOperations,
        (offset, length): (u64, u64),
        protection: u64,
        calls: &mut Vec<NativeCall>,
    ) -> Option<Plain> {
        if !self.enabled.load(Ordering::Relaxed) {
            return None;
        }
        let descriptor = file.unchanging_descriptor()?;
        let (identity, version) = identify(&rustix::fs::fstat(&descriptor).ok()?);
        match self.of(&descriptor, identity, version) {
            Found::Image(image) => {
                image.lay_over(offset, length, protection, calls);
                None
            }
            Found::NotYet => Some(Plain { identity, version }),
            Found::Never => None,
        }
    }

    /// The image of a file that was mapped without. It is made now, if it was not.
    pub fn later(self: &Arc<Self>, plain: Plain) -> Later {
        let (image, file) = {
            let mut state = self.state.lock();
            let Some(known) = state.files.get_mut(&plain.identity).filter(|known| known.version == plain.version) else {
                return Later::Never;
            };
            match &known.stage {
                Stage::Ready(image) => {
                    known.used = Instant::now();
                    (image.clone(), known.file.clone())
                }
                Stage::Plain => return Later::Never,
                Stage::Waiting(since) => {
                    let since = *since;
                    self.wait(&mut state, since);
                    return Later::NotYet;
                }
                Stage::Seen(_) => {
                    if plain.version.is_settled() {
                        self.order(&mut state, plain.identity);
                    }
                    return Later::NotYet;
                }
            }
        };
        let make = || {
            let pages = build::late_pages(&image, &file)?;
            self.name(&pages, plain.identity, &file)?;
            Some(Arc::new(pages))
        };
        let pages = match &image.moved[..] {
            [] => Some(&image.pages),
            _ => image.late_pages.get_or_init(make).as_ref(),
        };
        match pages.cloned() {
            Some(pages) => Later::Ready { image, pages, file },
            None => Later::Never,
        }
    }

    /// The image of a file, if there is one; being asked again and again brings it about.
    fn of(self: &Arc<Self>, file: &Arc<OwnedFd>, identity: (u64, u64), version: Version) -> Found {
        let mut state = self.state.lock();
        if state.files.len() >= MAXIMUM_FILES && !state.files.contains_key(&identity) {
            state.files.retain(|_, known| matches!(known.stage, Stage::Ready(_)));
        }
        let now = Instant::now();
        let fresh = || Known { version, used: now, file: file.clone(), stage: Stage::Seen(0) };
        let known = state.files.entry(identity).or_insert_with(fresh);
        if known.version != version {
            *known = fresh();
        }
        known.used = now;
        match &mut known.stage {
            Stage::Ready(image) => return Found::Image(image.clone()),
            Stage::Seen(uses) => {
                *uses = uses.saturating_add(1);
                if *uses < USES_BEFORE || !version.is_settled() {
                    return Found::NotYet;
                }
            }
            Stage::Waiting(since) => {
                let since = *since;
                self.wait(&mut state, since);
                return Found::NotYet;
            }
            Stage::Plain => return Found::Never,
        }
        self.order(&mut state, identity);
        Found::NotYet
    }

    /// Has the image of a known file made.
    fn order(self: &Arc<Self>, state: &mut State, identity: (u64, u64)) {
        let Some(known) = state.files.get_mut(&identity) else { return };
        known.stage = Stage::Waiting(Instant::now());
        state.waiting.push_back(Order { identity, version: known.version, file: known.file.clone() });
        if !state.working {
            state.working = self.start(Images::work_nicely);
        }
    }

    /// Somebody waits for an image since then.
    fn wait(self: &Arc<Self>, state: &mut State, since: Instant) {
        if !state.hurrying && since.elapsed() > PATIENCE {
            // It begins once the caller is done with the state.
            state.hurrying = self.start(Images::hurry);
            let at_work = state.at_work.clone().filter(|_| state.hurrying);
            at_work.into_iter().for_each(|order| state.waiting.push_front(order));
        }
    }

    fn start(self: &Arc<Self>, work: fn(&Images)) -> bool {
        let images = self.clone();
        let thread = std::thread::Builder::new().name("skerry-images".into()).stack_size(256 << 10);
        thread.spawn(move || work(&images)).is_ok()
    }

    /// Makes what waits, and ends.
    fn work_nicely(&self) {
        let _ = rustix::process::setpriority_process(None, NICENESS);
        self.work(|state, order| {
            state.working = order.is_some();
            state.at_work = order.cloned();
        });
    }

    fn hurry(&self) {
        self.work(|state, order| state.hurrying = order.is_some());
    }

    /// `begins` is told of each, and of the end.
    fn work(&self, begins: impl Fn(&mut State, Option<&Order>)) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let next = state.waiting.pop_front();
                begins(&mut state, next.as_ref());
                next
            };
            let Some(order) = next else {
                skerry_platform::own::return_free_memory();
                return skerry_platform::own::return_code();
            };
            let image = self.make(order.identity, order.version, &order.file);
            let mut state = self.state.lock();
            // The other thread may have been faster.
            let is_awaited = |known: &Known| known.version == order.version && matches!(known.stage, Stage::Waiting(_));
            if state.files.get(&order.identity).is_some_and(is_awaited) {
                let stage = match image {
                    Some(image) if state.make_room(image.bytes()) => Stage::Ready(Arc::new(image)),
                    _ => Stage::Plain,
                };
                state.files.entry(order.identity).and_modify(|known| known.stage = stage);
            }
        }
    }

    /// What a run is in the file itself; behind its end there are zeros, as in a mapping.
    pub fn plain_bytes(file: &OwnedFd, run: Run) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(run.length()).ok()?];
        Source(file).fill_start(&mut bytes, run.start)?;
        Some(bytes)
    }

    fn make(&self, identity: (u64, u64), version: Version, file: &OwnedFd) -> Option<Image> {
        let image = build::image(file)?;
        // Not of a file that was changed while it was read.
        if identify(&rustix::fs::fstat(file).ok()?) != (identity, version) {
            return None;
        }
        self.name(&image.pages, identity, file)?;
        Some(image)
    }

    /// Mappings of `pages` are to be shown as those of the file.
    fn name(&self, pages: &OwnedFd, identity: (u64, u64), file: &OwnedFd) -> Option<()> {
        let pages = rustix::fs::fstat(pages).ok()?;
        let numbers = |device: u64| {
            let device = Device::decode(device);
            (device.major, device.minor)
        };
        let number = file.as_raw_fd().to_string();
        let name = rustix::fs::readlinkat(skerry_platform::host::own_descriptors()?, number, Vec::new()).ok()?;
        self.names.stands_for((numbers(pages.st_dev), pages.st_ino), (numbers(identity.0), identity.1), name.into_bytes());
        Some(())
    }
}

impl State {
    /// Whether `bytes` more fit, after images that nobody uses any more are gone.
    fn make_room(&mut self, bytes: u64) -> bool {
        let total = |files: &HashMap<(u64, u64), Known>| files.values().map(Known::bytes).sum::<u64>();
        if total(&self.files) + bytes > MAXIMUM_BYTES {
            self.files.retain(|_, known| !matches!(known.stage, Stage::Ready(_)) || known.used.elapsed() < IDLE);
        }
        total(&self.files) + bytes <= MAXIMUM_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_long_has_another_thread_make_the_image() {
        let program = Arc::new(OwnedFd::from(std::fs::File::open("/bin/sh").unwrap()));
        let (identity, version) = identify(&rustix::fs::fstat(&program).unwrap());
        let images = Images::new(&Arc::default());
        {
            // As a thread that gets no CPU leaves it.
            let mut state = images.state.lock();
            let since = Instant::now().checked_sub(PATIENCE * 2).unwrap();
            let stage = Stage::Waiting(since);
            state.files.insert(identity, Known { version, used: since, file: program.clone(), stage });
            (state.working, state.at_work) = (true, Some(Order { identity, version, file: program.clone() }));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while matches!(images.of(&program, identity, version), Found::NotYet) {
            assert!(Instant::now() < deadline, "nobody makes it");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!images.state.lock().waiting.iter().any(|order| order.identity == identity));
    }
}
