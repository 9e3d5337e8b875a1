use super::*;
use crate::fs::lending::tests::Says;
use crate::run::AddressSpace;
use crate::sync::Waiter;
use skerry_platform::pipe_ring::PipeRing;
use std::sync::atomic::AtomicU32;
use std::sync::Weak;
use std::time::{Duration, Instant};

type Ends = (Arc<OpenFile>, Arc<OpenFile>);

fn pipe() -> Ends {
    let account = Arc::new(PipeAccount::default());
    assert!(account.take(DEFAULT_SLOTS));
    let (reader, writer) = Arc::new(Pipe::with(account, DEFAULT_SLOTS, 1, (0, 0))).ends();
    (OpenFile::new(Arc::new(reader), StatusFlags::empty(), None), OpenFile::new(Arc::new(writer), StatusFlags::WRONLY, None))
}

fn read(file: &OpenFile, size: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let count = file.operations.read(file, &mut buffer, 0)?;
    buffer.truncate(count);
    Ok(buffer)
}

fn write(file: &OpenFile, bytes: &[u8]) -> Result<usize> {
    file.operations.write(file, bytes, 0)
}

#[test]
fn holds_64_kib_and_gives_eof_once_writers_are_gone() {
    let (reader, writer) = pipe();
    assert_eq!(read(&reader, 10), Err(Errno::EAGAIN));
    assert_eq!(write(&writer, &[1; 100_000]), Ok(65536));
    assert_eq!(write(&writer, &[1; 1]), Err(Errno::EAGAIN));
    assert!(!writer.operations.poll().contains(Events::OUT));
    assert_eq!(read(&reader, 4096).unwrap().len(), 4096);
    assert!(writer.operations.poll().contains(Events::OUT));
    drop(writer);
    assert_eq!(reader.operations.poll(), Events::IN | Events::RDNORM | Events::HUP);
    assert_eq!(read(&reader, 100_000).unwrap().len(), 61440);
    assert_eq!(read(&reader, 1).unwrap().len(), 0);
}

#[test]
fn a_write_without_readers_is_epipe() {
    let (reader, writer) = pipe();
    drop(reader);
    assert_eq!(write(&writer, b"x"), Err(Errno::EPIPE));
    assert_eq!(writer.operations.poll(), Events::OUT | Events::WRNORM | Events::ERR);
}

#[test]
fn a_blocked_reader_is_woken_by_the_first_write() {
    let (reader, writer) = pipe();
    let waiter = Waiter::new();
    let _registration = reader.operations.wait_queue().unwrap().register(waiter.clone());
    write(&writer, b"x").unwrap();
    assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(5))));
    // Not empty before, nobody polls: no further wake-up.
    write(&writer, b"x").unwrap();
    assert!(!waiter.sleep(Some(Instant::now() + Duration::from_millis(5))));
    reader.operations.poll();
    write(&writer, b"x").unwrap();
    assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(5))));
}

#[test]
fn capacity_follows_f_setpipe_sz() {
    let (reader, writer) = pipe();
    assert_eq!(capacity(&reader), Ok(65536));
    assert_eq!(set_capacity(&writer, 5000), Ok(8192));
    assert_eq!(set_capacity(&writer, 0), Ok(4096));
    assert_eq!(set_capacity(&writer, 1 << 20), Ok(1 << 20));
    assert_eq!(set_capacity(&writer, (1 << 20) + 1), Err(Errno::EPERM));
    assert_eq!(write(&writer, &[0; 10_000]), Ok(10_000));
    assert_eq!(set_capacity(&writer, 4096), Err(Errno::EBUSY));
}

#[test]
fn splice_moves_and_tee_copies() {
    let (reader, writer) = pipe();
    let (other_reader, other_writer) = pipe();
    assert_eq!(transfer::between(&reader, &other_writer, 10, transfer::Transfer::Move), Err(Errno::EAGAIN));
    write(&writer, b"hello world").unwrap();
    assert_eq!(transfer::between(&reader, &other_writer, 5, transfer::Transfer::Copy), Ok(5));
    assert_eq!(transfer::between(&reader, &other_writer, 99, transfer::Transfer::Move), Ok(11));
    assert_eq!(read(&other_reader, 99).unwrap(), b"hellohello world");
    assert_eq!(transfer::between(&reader, &writer, 1, transfer::Transfer::Move), Err(Errno::EINVAL));
    drop(writer);
    assert_eq!(transfer::between(&reader, &other_writer, 1, transfer::Transfer::Move), Ok(0));
}

#[test]
fn packet_mode_keeps_borders() {
    let (reader, writer) = pipe();
    writer.set_flags(StatusFlags::WRONLY | StatusFlags::DIRECT);
    write(&writer, b"one").unwrap();
    write(&writer, b"two").unwrap();
    assert_eq!(read(&reader, 99).unwrap(), b"one");
    assert_eq!(read(&reader, 2).unwrap(), b"tw");
    assert_eq!(read(&reader, 2), Err(Errno::EAGAIN));
}

/// Lends it to a stub that gives it back so; what was lent, and how often it came back.
fn lend(ends: &Ends, calls: u32, bytes: &[u8]) -> Option<(Vec<u8>, Arc<AtomicU32>)> {
    let (says, ended) = Says::new(calls, Some(LentState::Bytes(bytes.to_vec())));
    let (mut says, mut lent) = (Some(says), Vec::new());
    let is_lent = ends.0.operations.lend(&ends.0, &ends.1, &mut |object| {
        let LentObject::Pipe { bytes } = object else { unreachable!() };
        lent = bytes.to_vec();
        says.take().unwrap()
    });
    is_lent.then_some((lent, ended))
}

#[test]
fn what_is_lent_comes_back_when_anybody_looks() {
    let ends = pipe();
    write(&ends.1, b"some").unwrap();
    let looks: [fn(&Ends); 7] = [
        |ends| assert_eq!(read(&ends.0, 99).unwrap(), b"others"),
        |ends| assert_eq!(write(&ends.1, b"x"), Ok(1)),
        |ends| assert!(ends.0.operations.poll().contains(Events::IN)),
        |ends| assert!(ends.1.operations.poll().contains(Events::OUT)),
        |ends| assert_eq!(set_capacity(&ends.0, 8192), Ok(8192)),
        |ends| ends.1.operations.end_loan(),
        |ends| ends.0.set_flags(StatusFlags::NONBLOCK),
    ];
    for look in looks {
        let (_, ended) = lend(&ends, 3, b"others").unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        look(&ends);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
    assert_eq!(lend(&ends, 3, b"").unwrap().0, b"others");
    assert_eq!(read(&ends.0, 99), Err(Errno::EAGAIN));
    // It says that it has done nothing, and comes with other bytes.
    write(&ends.1, b"abc").unwrap();
    lend(&ends, 0, b"xyz").unwrap();
    assert_eq!(read(&ends.0, 99).unwrap(), b"abc");
    lend(&ends, 3, &[7; objects::DATA]).unwrap();
    drop(ends.1);
    assert_eq!(read(&ends.0, 9999).unwrap(), [7; objects::DATA]);
    assert_eq!(read(&ends.0, 1).unwrap(), b"");
}

#[test]
fn nothing_is_lent_that_others_wait_for_or_that_is_odd() {
    let ends = pipe();
    for end in [&ends.0, &ends.1] {
        let _registration = end.operations.wait_queue().unwrap().register(Waiter::new());
        assert!(lend(&ends, 0, b"").is_none());
    }
    write(&ends.1, &[0; objects::DATA / 2 + 1]).unwrap();
    assert!(lend(&ends, 0, b"").is_none());
    read(&ends.0, 1).unwrap();
    assert!(lend(&ends, 0, b"").is_some());
    let swapped = (ends.1.clone(), ends.0.clone());
    assert!(lend(&swapped, 0, b"").is_none());
    assert!(lend(&(ends.0.clone(), pipe().1), 0, b"").is_none());
    ends.1.set_flags(StatusFlags::WRONLY | StatusFlags::DIRECT);
    assert!(lend(&ends, 0, b"").is_none());
    write(&ends.1, b"packet").unwrap();
    ends.1.set_flags(StatusFlags::WRONLY);
    assert!(lend(&ends, 0, b"").is_none());
    read(&ends.0, 9999).unwrap();
    assert!(lend(&ends, 0, b"").is_some());
    set_capacity(&ends.1, 4096).unwrap();
    assert!(lend(&ends, 0, b"").is_none());
}

fn user(space: &Arc<AddressSpace>, file: &Arc<OpenFile>) -> User {
    User { space: Arc::downgrade(space), files: Weak::new(), file: Arc::downgrade(file), fd: 3 }
}

fn ring((reader, writer): &Ends, spaces: [&Arc<AddressSpace>; 2]) -> Arc<SharedRing> {
    let (rings, memory) = PipeRing::create(1, 1).unwrap();
    SharedRing::new(rings, memory, &user(spaces[0], reader), &user(spaces[1], writer), Arc::default())
}

fn share((reader, _): &Ends, ring: &Arc<SharedRing>) -> bool {
    reader.downcast::<PipeEnd>().unwrap().lend_shared(ring, Nonblocking::default())
}

#[test]
fn a_shared_pipe_is_everybodys_again_once_somebody_else_looks() {
    let ends = pipe();
    let space = Arc::new(AddressSpace::default());
    let ring = ring(&ends, [&space, &space]);
    write(&ends.1, b"abc").unwrap();
    assert!(share(&ends, &ring));
    // Not twice; and what goes to another process too may stay with one that has both ends.
    assert!(!share(&ends, &ring));
    ends.0.operations.passed_on();
    assert!(!share(&ends, &ring));
    assert_eq!(read(&ends.0, 2).unwrap(), b"ab");
    assert_eq!(ring.rings[0].take_back(), None);
    assert!(share(&ends, &ring));
    ends.1.operations.flags_changed(StatusFlags::NONBLOCK);
    assert_eq!(ring.rings[0].take_back(), None);
    assert_eq!(read(&ends.0, 2).unwrap(), b"c");
}

#[test]
fn what_two_processes_share_is_theirs_alone() {
    let ends = pipe();
    let spaces = [(); 2].map(|()| Arc::new(AddressSpace::default()));
    let ring = ring(&ends, [&spaces[0], &spaces[1]]);
    assert!(share(&ends, &ring));
    ends.0.operations.passed_on();
    assert_eq!(ring.rings[0].take_back(), None);
    // A third one reads.
    let third = PipeEnd::new(ends.0.downcast::<PipeEnd>().unwrap().pipe.clone(), Side::Read, None);
    assert!(!share(&ends, &ring));
    drop(third);
    assert!(share(&ends, &ring));
}

#[test]
fn a_pipe_is_shared_only_where_the_ring_holds_as_much_and_who_waits_is_told() {
    let ends = pipe();
    let space = Arc::new(AddressSpace::default());
    let ring = ring(&ends, [&space, &space]);
    let waiter = Waiter::new();
    let registration = ends.0.operations.wait_queue().unwrap().register(waiter.clone());
    assert!(share(&ends, &ring));
    // Looking does not end it; and what was not told is told at its end.
    assert_eq!(ends.0.operations.poll(), Events::empty());
    assert!(!share(&ends, &ring) && !waiter.take_notice());
    ends.1.operations.changed_where_lent(Transfer::Write);
    assert!(waiter.take_notice());
    ring.rings[0].leave(pipes::READER_WATCHED);
    ends.0.operations.end_loan();
    assert!(waiter.take_notice());
    drop(registration);
    set_capacity(&ends.0, 2 << 16).unwrap();
    assert!(!share(&ends, &ring));
    set_capacity(&ends.0, 1 << 16).unwrap();
    write(&ends.1, &[1; 65536]).unwrap();
    assert!(share(&ends, &ring));
    assert_eq!(read(&ends.0, 70000).unwrap(), [1; 65536]);
    ends.1.set_flags(StatusFlags::WRONLY | StatusFlags::DIRECT);
    write(&ends.1, b"packet").unwrap();
    assert!(!share(&ends, &ring));
}
