use super::*;
use crate::fs::file::{Events, StatusFlags};
use crate::net::address::{Address, UnixName};
use crate::net::rights::InFlight;
use crate::net::socket::{Destination, Incoming, MessageFlags, Outgoing, Shutdown, SocketFile, UserCredentials};
use crate::task::Credentials;

fn network() -> Arc<NetworkStack> {
    Arc::new(NetworkStack::new())
}

fn caller(pid: i32) -> Caller {
    Caller { pid, credentials: Arc::new(Credentials::new(1000, 100, vec![4, 5])), file_limit: 1024 }
}

fn abstract_name(name: &str) -> Address {
    Address::Unix(UnixName::Abstract(name.into()))
}

fn to(network: &NetworkStack, name: &str) -> Destination {
    let unix = network.unix_names.find(name.as_bytes()).ok();
    Destination { address: abstract_name(name), unix }
}

fn send(socket: &dyn Socket, data: &[u8]) -> Result<usize> {
    socket.send(&caller(7), data, &mut Outgoing::default())
}

fn receive(socket: &dyn Socket, size: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let count = socket.receive(&mut buffer, MessageFlags::empty())?.count;
    buffer.truncate(count);
    Ok(buffer)
}

#[allow(clippy::type_complexity)] // a stack, a listener and both ends
fn connected(kind: SocketType) -> (Arc<NetworkStack>, Arc<dyn Socket>, Arc<dyn Socket>, Arc<dyn Socket>) {
    let network = network();
    let listener = create(&network, &caller(1), kind, 0).unwrap();
    listener.bind(&caller(1), &abstract_name("server")).unwrap();
    listener.listen(&caller(1), 1).unwrap();
    let client = create(&network, &caller(2), kind, 0).unwrap();
    client.connect(&caller(2), &to(&network, "server")).unwrap();
    assert_eq!(listener.poll(), Events::IN | Events::RDNORM);
    let server = listener.accept().unwrap();
    assert_eq!(listener.poll(), Events::empty());
    (network, listener, client, server)
}

#[test]
fn a_stream_is_listened_for_connected_and_ended() {
    let (network, listener, client, server) = connected(SocketType::Stream);
    assert_eq!(client.peer_address(), Ok(abstract_name("server")));
    assert_eq!(server.local_address(), abstract_name("server"));
    assert_eq!(server.peer_address(), Ok(Address::Unix(UnixName::Unnamed)));
    assert_eq!(client.peer_identity().unwrap().user.pid, 1);
    assert_eq!(server.peer_identity().unwrap().user, UserCredentials { pid: 2, uid: 1000, gid: 100 });
    assert_eq!(client.connect(&caller(2), &to(&network, "server")), Err(Errno::EISCONN));

    assert_eq!(send(client.as_ref(), b"hello"), Ok(5));
    assert_eq!(server.available(), Ok(5));
    assert!(server.poll().contains(Events::IN));
    assert_eq!(receive(server.as_ref(), 3).unwrap(), b"hel");
    assert_eq!(receive(server.as_ref(), 3).unwrap(), b"lo");
    assert_eq!(receive(server.as_ref(), 3), Err(Errno::EAGAIN));

    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(server.as_ref(), 3).unwrap(), b"");
    assert!(server.poll().contains(Events::IN | Events::RDHUP) && !server.poll().contains(Events::HUP));
    assert_eq!(send(client.as_ref(), b"x"), Err(Errno::EPIPE));
    assert_eq!(send(server.as_ref(), b"unread"), Ok(6));
    client.close();
    assert_eq!(receive(server.as_ref(), 3), Err(Errno::ECONNRESET));
    assert_eq!(receive(server.as_ref(), 3).unwrap(), b"");
    assert_eq!(send(server.as_ref(), b"x"), Err(Errno::EPIPE));
    assert!(server.poll().contains(Events::HUP));
    listener.close();
    assert!(network.unix_names.find(b"server").is_err());
}

#[test]
fn the_backlog_holds_connections_back() {
    let (network, listener, _client, _server) = connected(SocketType::Stream);
    let clients: Vec<_> = (0..3).map(|_| create(&network, &caller(3), SocketType::Stream, 0).unwrap()).collect();
    assert_eq!(clients[0].connect(&caller(3), &to(&network, "server")), Ok(()));
    assert_eq!(clients[1].connect(&caller(3), &to(&network, "server")), Ok(()));
    assert_eq!(clients[2].connect(&caller(3), &to(&network, "server")), Err(Errno::EAGAIN));
    listener.accept().unwrap();
    assert_eq!(clients[2].connect(&caller(3), &to(&network, "server")), Ok(()));
    let destination = to(&network, "server");
    listener.close();
    assert_eq!(receive(clients[2].as_ref(), 1), Err(Errno::ECONNRESET));
    let late = create(&network, &caller(3), SocketType::Stream, 0).unwrap();
    assert_eq!(late.connect(&caller(3), &destination), Err(Errno::ECONNREFUSED));
}

#[test]
fn packets_are_cut_and_say_so() {
    let (_network, _listener, client, server) = connected(SocketType::SequencedPacket);
    send(client.as_ref(), b"abcdef").unwrap();
    let mut buffer = [0; 3];
    let Incoming { count, full_length, flags, .. } = server.receive(&mut buffer, MessageFlags::empty()).unwrap();
    assert_eq!((count, full_length, flags), (3, 6, MessageFlags::TRUNC));
}

#[test]
fn names_are_taken_once() {
    let network = network();
    let one = create(&network, &caller(1), SocketType::Datagram, 0).unwrap();
    let other = create(&network, &caller(1), SocketType::Stream, 0).unwrap();
    one.bind(&caller(1), &abstract_name("n")).unwrap();
    assert_eq!(other.bind(&caller(1), &abstract_name("n")), Err(Errno::EADDRINUSE));
    assert_eq!(one.bind(&caller(1), &abstract_name("m")), Err(Errno::EINVAL));
    other.bind(&caller(1), &Address::Unix(UnixName::Unnamed)).unwrap();
    assert_eq!(other.local_address(), abstract_name("00000"));
    assert_eq!(other.connect(&caller(1), &to(&network, "n")), Err(Errno::EPROTOTYPE));
}

#[test]
fn datagrams_find_their_receiver_and_wait_for_room() {
    let network = network();
    let [receiver, sender] = [(); 2].map(|()| create(&network, &caller(1), SocketType::Datagram, 0).unwrap());
    receiver.bind(&caller(1), &abstract_name("r")).unwrap();
    sender.bind(&caller(1), &abstract_name("s")).unwrap();
    assert_eq!(send(sender.as_ref(), b"x"), Err(Errno::ENOTCONN));
    sender.connect(&caller(1), &to(&network, "r")).unwrap();
    let block = vec![1; 100_000];
    assert_eq!(send(sender.as_ref(), &block), Ok(100_000));
    assert_eq!(send(sender.as_ref(), &block), Ok(100_000));
    assert_eq!(send(sender.as_ref(), &block), Err(Errno::EAGAIN));
    assert!(!sender.poll().contains(Events::OUT));
    let mut buffer = [0; 10];
    let incoming = receiver.receive(&mut buffer, MessageFlags::empty()).unwrap();
    assert_eq!((incoming.count, incoming.full_length), (10, 100_000));
    assert_eq!(incoming.source, Some(abstract_name("s")));
    assert!(sender.poll().contains(Events::OUT));
    assert_eq!(send(sender.as_ref(), &vec![0; 300_000]), Err(Errno::EMSGSIZE));
    receiver.close();
    assert_eq!(send(sender.as_ref(), b"x"), Err(Errno::ECONNREFUSED));
    assert_eq!(send(sender.as_ref(), b"x"), Err(Errno::ENOTCONN));
    assert_eq!(network.budget.used(), 0);
}

#[test]
fn descriptors_travel_and_are_closed_when_lost() {
    let network = network();
    let [one, other] = pair(&network, &caller(1), SocketType::Stream, 0).unwrap();
    let [kept, passed] = pair(&network, &caller(1), SocketType::Stream, 0).unwrap();
    let file = SocketFile::open(passed, StatusFlags::empty());
    let send_file = |file| {
        let rights = InFlight::new(vec![file], &network.in_flight, 10).unwrap();
        one.send(&caller(1), b"ab", &mut Outgoing { rights, ..Outgoing::default() }).unwrap()
    };
    send(one.as_ref(), b"before").unwrap();
    send_file(file);
    send(one.as_ref(), b"after").unwrap();
    let mut buffer = [0; 100];
    let incoming = other.receive(&mut buffer, MessageFlags::empty()).unwrap();
    assert!(incoming.rights.is_empty() && incoming.count == 6);
    let incoming = other.receive(&mut buffer[..1], MessageFlags::empty()).unwrap();
    assert_eq!(incoming.count, 1);
    let file = incoming.rights.take().pop().unwrap();
    assert_eq!(receive(other.as_ref(), 100).unwrap(), b"bafter");
    // Back into the queue, and lost with it: the passed end is closed.
    send_file(file);
    other.close();
    assert!(kept.poll().contains(Events::HUP));
}

#[test]
fn a_long_chain_of_sockets_in_flight_is_let_go_without_recursion() {
    let network = network();
    let mut inner: Option<Arc<crate::fs::file::OpenFile>> = None;
    for _ in 0..10_000 {
        let [one, other] = pair(&network, &caller(1), SocketType::Stream, 0).unwrap();
        if let Some(file) = inner.take() {
            let rights = InFlight::new(vec![file], &network.in_flight, 1 << 20).unwrap();
            one.send(&caller(1), b"x", &mut Outgoing { rights, ..Outgoing::default() }).unwrap();
        }
        inner = Some(SocketFile::open(other, StatusFlags::empty()));
    }
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(inner)).unwrap().join().unwrap();
    assert!(InFlight::new(Vec::new(), &network.in_flight, 0).is_ok());
}
