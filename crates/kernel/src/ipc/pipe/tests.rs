use super::*;
use crate::sync::Waiter;
use std::time::{Duration, Instant};

fn pipe() -> (Arc<OpenFile>, Arc<OpenFile>) {
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
