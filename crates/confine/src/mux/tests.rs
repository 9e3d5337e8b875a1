use super::*;
use rustix::pipe::pipe;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Two ends, each served by a thread until the other is gone.
fn pair() -> (Mux, Mux, std::sync::mpsc::Receiver<Result<Frame, WireError>>) {
    let (here, there) = UnixStream::pair().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let end = |channel: UnixStream, tell: std::sync::mpsc::Sender<Result<Frame, WireError>>| {
        let mux = Mux::new(channel.try_clone().unwrap().into());
        let (mut receiver, own) = (Receiver::new(channel.into()), mux.clone());
        std::thread::spawn(move || {
            while let Ok(Some(frame)) = receiver.next() {
                let other = matches!(frame.kind, Kind::Drained | Kind::Control).then(|| frame.clone());
                let said = match other {
                    Some(frame) => Ok(frame),
                    None => match own.serve(frame) {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    },
                };
                let _ = tell.send(said);
            }
        });
        mux
    };
    (end(here, tell.clone()), end(there, tell), told)
}

fn file(descriptor: OwnedFd) -> std::fs::File {
    descriptor.into()
}

#[test]
fn bytes_go_through_in_order_with_their_end() {
    let (here, there, _told) = pair();
    let (from, into) = pipe().unwrap();
    let (out, sink) = pipe().unwrap();
    there.add_sink(5, sink).unwrap();
    here.add_source(5, from).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let sent = data.clone();
    std::thread::spawn(move || file(into).write_all(&sent).unwrap());
    let mut read = Vec::new();
    file(out).read_to_end(&mut read).unwrap();
    assert!(read == data);
}

#[test]
fn who_writes_hears_that_nobody_reads() {
    let (here, there, _told) = pair();
    let (from, into) = pipe().unwrap();
    let (out, sink) = pipe().unwrap();
    there.add_sink(1, sink).unwrap();
    here.add_source(1, from).unwrap();
    drop(out);
    let mut into = file(into);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while into.write_all(&[0; 100]).is_ok() {
        assert!(std::time::Instant::now() < until, "it goes on for ever");
    }
}

#[test]
fn what_has_been_written_comes_before_the_answer_to_drain() {
    let (here, there, told) = pair();
    let (from, into) = pipe().unwrap();
    let (out, sink) = pipe().unwrap();
    there.add_sink(1, sink).unwrap();
    here.add_source(1, from).unwrap();
    let mut into = file(into);
    for round in 0..200 {
        into.write_all(&[round as u8; 3000]).unwrap();
        there.send(Kind::Drain, 1, b"");
        assert_eq!(told.recv().unwrap().unwrap().kind, Kind::Drained);
        let (tell, written) = std::sync::mpsc::channel();
        there.when_written(1, move || tell.send(()).unwrap());
        written.recv().unwrap();
        assert_eq!(rustix::io::ioctl_fionread(&out).unwrap(), 3000);
        rustix::io::read(&out, &mut [0; 3000]).unwrap();
    }
    drop(into);
    assert_eq!(rustix::io::read(&out, &mut [0; 1]).unwrap(), 0);
    there.send(Kind::Drain, 1, b"");
    assert_eq!(told.recv().unwrap().unwrap().kind, Kind::Drained);
}

#[test]
fn a_reader_that_waits_holds_up_its_own_stream_only() {
    let (here, there, told) = pair();
    let (from, into) = pipe().unwrap();
    let (_out, sink) = pipe().unwrap();
    there.add_sink(1, sink).unwrap();
    here.add_source(1, from).unwrap();
    std::thread::spawn(move || drop(file(into).write_all(&vec![1; 1 << 20])));
    std::thread::sleep(Duration::from_millis(100));
    here.send_control(b"still here");
    assert_eq!(told.recv().unwrap().unwrap().payload, b"still here");
}

#[test]
fn more_than_there_is_room_for_breaks_the_protocol() {
    let (here, there, told) = pair();
    let (_out, sink) = pipe().unwrap();
    there.add_sink(1, sink).unwrap();
    for _ in 0..2 * WINDOW / PIECE + 16 {
        here.send(Kind::Data, 1, &[0; PIECE]);
    }
    assert!(matches!(told.recv().unwrap(), Err(WireError::Protocol(_))));
    let (here, there, told) = pair();
    let (from, _into) = pipe().unwrap();
    here.add_source(1, from).unwrap();
    there.send(Kind::Credit, 1, &1u32.to_le_bytes());
    assert!(matches!(told.recv().unwrap(), Err(WireError::Protocol(_))));
    // About what is not there nothing is said.
    there.send(Kind::Data, 9, b"x");
    there.send_control(b"end");
    assert_eq!(told.recv().unwrap().unwrap().payload, b"end");
}
