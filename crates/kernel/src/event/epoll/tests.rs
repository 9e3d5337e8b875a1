use super::*;
use crate::event::eventfd::{EventFd, Take};
use crate::fs::file::StatusFlags;
use crate::fs::lending::{Edges, Left};
use crate::sync::{Hears, Waiter, Wake};
use skerry_platform::channel::ReturnedEvents;
use skerry_platform::layout::{events, Interest};

const IN: u32 = 1;
const OUT: u32 = 4;

fn eventfd() -> Arc<OpenFile> {
    OpenFile::new(Arc::new(EventFd::new(0, Take::All)), StatusFlags::RDWR, None)
}

fn signal(file: &OpenFile) {
    file.operations.write(file, &1u64.to_ne_bytes(), 0).unwrap();
}

fn drain(file: &OpenFile) {
    file.operations.read(file, &mut [0; 8], 0).unwrap();
}

fn epoll() -> (Arc<Epoll>, Arc<OpenFile>) {
    let epoll = Epoll::new(Arc::default());
    (epoll.clone(), OpenFile::new(epoll, StatusFlags::RDWR, None))
}

fn wanted(events: u32) -> Wanted {
    Wanted { events: events | 0x18, data: 7 }
}

fn count(epoll: &Epoll) -> usize {
    epoll.take(10).len()
}

#[test]
fn level_triggered_items_are_told_until_they_are_drained() {
    let (epoll, _own) = epoll();
    let file = eventfd();
    epoll.add(5, &file, wanted(IN)).unwrap();
    assert_eq!(epoll.add(5, &file, wanted(IN)), Err(Errno::EEXIST));
    assert_eq!(count(&epoll), 0);
    signal(&file);
    assert_eq!((count(&epoll), count(&epoll)), (1, 1));
    let event = epoll.take(1).remove(0).event();
    assert_eq!(({ event.events }, { event.data }), (IN, 7));
    drain(&file);
    assert_eq!(count(&epoll), 0);
    signal(&file);
    epoll.remove(5, &file).unwrap();
    assert_eq!(count(&epoll), 0);
    assert_eq!(epoll.remove(5, &file), Err(Errno::ENOENT));
}

#[test]
fn edge_triggered_items_are_told_once_per_wake_up() {
    let (epoll, _own) = epoll();
    let file = eventfd();
    epoll.add(5, &file, wanted(IN | EPOLLET)).unwrap();
    signal(&file);
    assert_eq!((count(&epoll), count(&epoll)), (1, 0));
    signal(&file);
    assert_eq!((count(&epoll), count(&epoll)), (1, 0));
    // What could not be told is not lost.
    signal(&file);
    let taken = epoll.take(10);
    epoll.untake(taken);
    assert_eq!(count(&epoll), 1);
}

#[test]
fn one_shot_items_sleep_until_they_are_modified() {
    let (epoll, _own) = epoll();
    let file = eventfd();
    signal(&file);
    epoll.add(5, &file, wanted(IN | EPOLLONESHOT)).unwrap();
    assert_eq!((count(&epoll), count(&epoll)), (1, 0));
    signal(&file);
    assert_eq!(count(&epoll), 0);
    epoll.modify(5, &file, wanted(IN | EPOLLONESHOT)).unwrap();
    assert_eq!(count(&epoll), 1);
}

#[test]
fn a_closed_file_leaves_the_list() {
    let (epoll, _own) = epoll();
    let file = eventfd();
    epoll.add(5, &file, wanted(OUT)).unwrap();
    let duplicate = file.clone();
    drop(file);
    assert_eq!(count(&epoll), 1);
    drop(duplicate);
    assert_eq!(count(&epoll), 0);
    assert!(epoll.items.lock().is_empty());
    assert_eq!(epoll.limits.watches.load(Ordering::Relaxed), 0);
}

#[test]
fn a_dropped_epoll_leaves_the_files() {
    let (epoll, own) = epoll();
    let file = eventfd();
    epoll.add(5, &file, wanted(IN)).unwrap();
    drop((epoll, own));
    assert!(file.operations.wait_queue().unwrap().is_empty());
}

#[test]
fn epolls_nest_but_not_in_a_loop() {
    let limits: Arc<EpollLimits> = Arc::default();
    let make = || {
        let epoll = Epoll::new(limits.clone());
        (epoll.clone(), OpenFile::new(epoll, StatusFlags::RDWR, None))
    };
    let row: Vec<_> = (0..6).map(|_| make()).collect();
    for pair in row[..5].windows(2) {
        pair[0].0.add(3, &pair[1].1, wanted(IN)).unwrap();
    }
    // A fifth link, at either end.
    assert_eq!(row[4].0.add(3, &row[5].1, wanted(IN)), Err(Errno::ELOOP));
    assert_eq!(row[5].0.add(3, &row[0].1, wanted(IN)), Err(Errno::ELOOP));
    assert_eq!(row[4].0.add(3, &row[0].1, wanted(IN)), Err(Errno::ELOOP));
    assert_eq!(row[4].0.add(4, &row[4].1, wanted(IN)), Err(Errno::ELOOP));
    let file = eventfd();
    row[4].0.add(9, &file, wanted(IN)).unwrap();
    assert_eq!(count(&row[0].0), 0);
    let waiter = Waiter::new();
    let _registration = row[0].0.queue.register(waiter.clone() as Arc<dyn Wake>);
    signal(&file);
    assert!(waiter.sleep(Some(std::time::Instant::now() + std::time::Duration::from_secs(5))));
    assert_eq!(count(&row[0].0), 1);
    drain(&file);
    assert_eq!(count(&row[0].0), 0);
}

#[test]
fn exclusive_has_its_rules() {
    let (epoll, own) = epoll();
    let file = eventfd();
    assert_eq!(epoll.add(5, &file, wanted(IN | EPOLLEXCLUSIVE | EPOLLONESHOT)), Err(Errno::EINVAL));
    let other = Epoll::new(Arc::default());
    assert_eq!(other.add(5, &own, wanted(IN | EPOLLEXCLUSIVE)), Err(Errno::EINVAL));
    epoll.add(5, &file, wanted(IN | EPOLLEXCLUSIVE)).unwrap();
    assert_eq!(epoll.modify(5, &file, wanted(IN)), Err(Errno::EINVAL));
}

/// A thread that says what it likes of what is lent to it.
struct Says(Mutex<ReturnedEvents>);

impl EventLender for Says {
    fn take_back(&self) -> ReturnedEvents {
        std::mem::take(&mut *self.0.lock())
    }
}

fn lend(epoll: &Epoll, changed: Vec<(usize, Interest)>) -> bool {
    let told: Vec<_> = epoll.take(10).iter().map(|entry| entry.item().clone()).collect();
    let says = Says(Mutex::new(ReturnedEvents { told: 0, changed }));
    epoll.lend(&told, |_, _, _| Some(Left::Levels), |_| Box::new(says))
}

/// A ring that says what it likes of its edges.
#[derive(Clone, Default)]
struct Ring(Arc<[AtomicBool; 3]>);

impl Edges for Ring {
    fn add(&self) -> bool {
        let [is_lent, has_edge, _] = &*self.0;
        has_edge.store(true, Ordering::Relaxed);
        is_lent.load(Ordering::Relaxed)
    }

    fn take_back(&self) -> bool {
        let [_, has_edge, is_back] = &*self.0;
        is_back.store(true, Ordering::Relaxed);
        has_edge.load(Ordering::Relaxed)
    }
}

#[test]
fn an_edge_is_told_of_by_one_of_the_two() {
    for (is_lent, comes_while_lent, is_pending) in
        [(true, false, false), (true, true, false), (true, false, true), (false, false, true)]
    {
        let (epoll, _own) = epoll();
        let (file, ring) = (eventfd(), Ring::default());
        ring.0[0].store(is_lent, Ordering::Relaxed);
        signal(&file);
        epoll.add(5, &file, wanted(IN | EPOLLET)).unwrap();
        let told: Vec<_> = epoll.take(1).iter().map(|entry| entry.item().clone()).collect();
        if is_pending {
            signal(&file);
        }
        let left = |_: &OpenFile, _, hears| (hears == Hears::Edges).then(|| Left::Edges(Box::new(ring.clone())));
        let interests = Mutex::new(Vec::new());
        let lent = epoll.lend(&told, left, |lent| {
            interests.lock().extend(lent.iter().map(|interest| interest.events & EPOLLET));
            Box::new(Says(Mutex::default()))
        });
        // One that the ring does not take is told of here.
        assert_eq!(lent, is_lent);
        assert_eq!(*interests.lock(), vec![EPOLLET; usize::from(lent)]);
        ring.0[1].fetch_or(comes_while_lent, Ordering::Relaxed);
        assert_eq!((count(&epoll), count(&epoll)), (usize::from(comes_while_lent || is_pending), 0));
        assert!(ring.0[2].load(Ordering::Relaxed));
    }
}

fn data(epoll: &Epoll) -> Vec<u64> {
    epoll.take(10).iter().map(|entry| entry.event().data).collect()
}

fn interest(events: u32) -> Interest {
    Interest { descriptor: 99, events, data: 8 }
}

#[test]
fn who_looks_finds_what_the_thread_has_changed() {
    let (epoll, own) = epoll();
    let files = [eventfd(), eventfd(), eventfd()];
    for (fd, file) in files.iter().enumerate() {
        signal(file);
        epoll.add(fd as i32, file, wanted(IN)).unwrap();
    }
    let again = |events| lend(&epoll, vec![(0, interest(events))]);
    assert!(lend(&epoll, vec![(0, interest(OUT)), (1, interest(events::NOT_LISTED))]));
    let text = own.operations.fdinfo();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("tfd:        0 events:       1c data:                8"), "{text}");
    assert_eq!(data(&epoll), [8, 7]);
    assert!(files[1].operations.wait_queue().unwrap().is_empty());

    assert!(again(events::NOT_LISTED));
    assert_eq!(epoll.modify(0, &files[0], wanted(IN)), Err(Errno::ENOENT));
    assert_eq!(epoll.add(0, &files[0], wanted(IN)), Ok(()));
    assert!(lend(&epoll, (0..3).map(|index| (index, interest(events::NOT_LISTED))).collect()));
    assert_eq!(epoll.add(0, &files[0], wanted(IN)), Ok(()));
    assert!(again(IN));
    assert_eq!(epoll.remove(0, &files[0]), Ok(()));
    assert_eq!((count(&epoll), epoll.limits.watches.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn what_nobody_may_ask_for_does_not_come_by_a_loan() {
    let (epoll, _own) = epoll();
    let file = eventfd();
    signal(&file);
    epoll.add(5, &file, wanted(IN)).unwrap();
    assert!(lend(&epoll, vec![(0, interest(IN | EPOLLEXCLUSIVE)), (1, interest(IN)), (usize::MAX, interest(0))]));
    assert_eq!(data(&epoll), [7]);
    // What has gone meanwhile stays gone.
    assert!(lend(&epoll, vec![(0, interest(IN))]));
    drop(file);
    assert_eq!(count(&epoll), 0);
    assert!(epoll.items.lock().is_empty());
}
