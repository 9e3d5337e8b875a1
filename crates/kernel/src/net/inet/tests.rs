use super::*;
use crate::fs::file::Events;
use crate::net::address::Address;
use crate::net::options as socket_options;
use crate::net::socket::{Destination, Incoming, MessageFlags, Outgoing, Shutdown};
use crate::task::Credentials;
use skerry_abi::raw::net as linux;

fn network() -> Arc<NetworkStack> {
    Arc::new(NetworkStack::new())
}

fn caller() -> Caller {
    Caller { pid: 1, credentials: Arc::new(Credentials::new(1000, 100, Vec::new())), file_limit: 1024 }
}

fn address(text: &str) -> Address {
    Address::Inet(text.parse().unwrap())
}

fn to(text: &str) -> Destination {
    Destination::plain(address(text))
}

fn tcp(network: &Arc<NetworkStack>, domain: u32) -> Arc<dyn Socket> {
    create(network, &caller(), domain, SocketType::Stream, 0).unwrap()
}

fn udp(network: &Arc<NetworkStack>, domain: u32) -> Arc<dyn Socket> {
    create(network, &caller(), domain, SocketType::Datagram, 0).unwrap()
}

fn listener(network: &Arc<NetworkStack>, at: &str, backlog: u32) -> Arc<dyn Socket> {
    let domain = if at.starts_with('[') { linux::AF_INET6 } else { linux::AF_INET };
    let socket = tcp(network, domain);
    socket.bind(&caller(), &address(at)).unwrap();
    socket.listen(&caller(), backlog).unwrap();
    socket
}

fn send(socket: &Arc<dyn Socket>, data: &[u8]) -> Result<usize> {
    socket.send(&caller(), data, &mut Outgoing::default())
}

fn receive(socket: &Arc<dyn Socket>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 1000];
    let count = socket.receive(&mut buffer, MessageFlags::empty())?.count;
    buffer.truncate(count);
    Ok(buffer)
}

fn set_socket(socket: &Arc<dyn Socket>, name: u32) {
    socket_options::set(socket.as_ref(), &caller(), name, &1i32.to_ne_bytes()).unwrap();
}

fn pair(network: &Arc<NetworkStack>) -> (Arc<dyn Socket>, Arc<dyn Socket>) {
    let listener = listener(network, "127.0.0.1:0", 5);
    let client = tcp(network, linux::AF_INET);
    client.connect(&caller(), &Destination::plain(listener.local_address())).unwrap();
    (client, listener.accept().unwrap())
}

#[test]
fn a_connection_knows_its_addresses_and_closes_in_order() {
    let network = network();
    let listener = listener(&network, "127.0.0.1:8080", 5);
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    let client = tcp(&network, linux::AF_INET);
    client.connect(&caller(), &to("127.0.0.1:8080")).unwrap();
    assert!(listener.poll().contains(Events::IN));
    let server = listener.accept().unwrap();
    assert_eq!(server.local_address(), address("127.0.0.1:8080"));
    assert_eq!(server.peer_address().unwrap(), client.local_address());
    assert_eq!(client.peer_address().unwrap(), address("127.0.0.1:8080"));
    assert_eq!(client.connect(&caller(), &to("127.0.0.1:8080")), Err(Errno::EISCONN));

    send(&client, b"ping").unwrap();
    assert_eq!(receive(&server).unwrap(), b"ping");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&server).unwrap(), b"");
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
    send(&server, b"pong").unwrap();
    server.close();
    assert_eq!(receive(&client).unwrap(), b"pong");
    assert_eq!(receive(&client).unwrap(), b"");
    assert!(client.poll().contains(Events::HUP | Events::RDHUP) && !client.poll().contains(Events::ERR));
}

#[test]
fn writing_to_a_closed_peer_is_reset_at_the_second_time() {
    let (client, server) = pair(&network());
    server.close();
    assert_eq!(send(&client, b"x"), Ok(1));
    assert!(client.poll().contains(Events::ERR | Events::HUP));
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
    assert_eq!(receive(&client).unwrap(), b"");
}

#[test]
fn unread_data_and_linger_reset() {
    let network = network();
    let (client, server) = pair(&network);
    send(&client, b"unread").unwrap();
    send(&server, b"answer").unwrap();
    server.close();
    assert_eq!(receive(&client).unwrap(), b"answer");
    assert_eq!(receive(&client), Err(Errno::ECONNRESET));
    assert_eq!(receive(&client).unwrap(), b"");
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));

    let (client, server) = pair(&network);
    let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
    socket_options::set(server.as_ref(), &caller(), linux::SO_LINGER, &linger).unwrap();
    server.close();
    assert!(client.poll().contains(Events::ERR | Events::HUP | Events::IN));
    assert_eq!(send(&client, b"x"), Err(Errno::ECONNRESET));
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
}

#[test]
fn nobody_listens() {
    let network = network();
    let client = tcp(&network, linux::AF_INET);
    assert_eq!(client.connect(&caller(), &to("127.0.0.1:9999")), Err(Errno::ECONNREFUSED));
    assert_eq!(client.connect(&caller(), &to("10.0.0.1:9")), Err(Errno::ENETUNREACH));
    assert_eq!(client.connect(&caller(), &to("[::1]:9")), Err(Errno::EAFNOSUPPORT));
    assert_eq!(client.poll(), Events::OUT | Events::WRNORM | Events::HUP);
    assert_eq!(receive(&client), Err(Errno::ENOTCONN));
    assert_eq!(send(&client, b""), Err(Errno::EPIPE));
    let _late = listener(&network, "127.0.0.1:9999", 1);
    assert_eq!(client.connect(&caller(), &to("127.0.0.1:9999")), Ok(()));
    network.set_loopback(skerry_control::Network::None);
    let alone = tcp(&network, linux::AF_INET);
    assert_eq!(alone.connect(&caller(), &to("127.0.0.1:9999")), Err(Errno::ENETUNREACH));
    assert_eq!(alone.bind(&caller(), &address("127.0.0.1:0")), Err(Errno::EADDRNOTAVAIL));
}

fn listener_here(network: &Arc<NetworkStack>, at: &str) -> Arc<dyn Socket> {
    listener(network, at, 5)
}

#[test]
fn a_full_backlog_defers_the_connection() {
    let network = network();
    let listener = listener(&network, "127.0.0.1:7000", 0);
    let clients: Vec<_> = (0..3).map(|_| tcp(&network, linux::AF_INET)).collect();
    assert_eq!(clients[0].connect(&caller(), &to("127.0.0.1:7000")), Ok(()));
    assert_eq!(clients[1].connect(&caller(), &to("127.0.0.1:7000")), Err(Errno::EINPROGRESS));
    assert_eq!(clients[2].connect(&caller(), &to("127.0.0.1:7000")), Err(Errno::EINPROGRESS));
    assert_eq!(clients[1].connect(&caller(), &to("127.0.0.1:7000")), Err(Errno::EALREADY));
    assert_eq!(clients[1].poll(), Events::empty());
    listener.accept().unwrap();
    assert_eq!(clients[1].connect_result(), Ok(()));
    assert_eq!(clients[2].connect_result(), Err(Errno::EAGAIN));
    assert_eq!(listener.accept().unwrap().peer_address().unwrap(), clients[1].local_address());
    listener.close();
    assert_eq!(clients[2].connect_result(), Ok(()));
    assert_eq!(receive(&clients[2]), Err(Errno::ECONNRESET));
}

#[test]
fn ports_are_shared_as_socket_7_says() {
    let network = network();
    let first = listener_here(&network, "127.0.0.1:6000");
    let plain = tcp(&network, linux::AF_INET);
    assert_eq!(plain.bind(&caller(), &address("0.0.0.0:6000")), Err(Errno::EADDRINUSE));
    assert_eq!(plain.bind(&caller(), &address("127.0.0.2:6000")), Ok(()));
    assert_eq!(plain.bind(&caller(), &address("127.0.0.2:6001")), Err(Errno::EINVAL));
    let reusing = tcp(&network, linux::AF_INET);
    set_socket(&reusing, linux::SO_REUSEADDR);
    set_socket(&first, linux::SO_REUSEADDR);
    assert_eq!(reusing.bind(&caller(), &address("127.0.0.1:6000")), Err(Errno::EADDRINUSE));
    let client = tcp(&network, linux::AF_INET);
    client.connect(&caller(), &to("127.0.0.1:6000")).unwrap();
    let server = first.accept().unwrap();
    first.close();
    // The connection that is left shares the port only with who also asked for it.
    assert_eq!(tcp(&network, linux::AF_INET).bind(&caller(), &address("127.0.0.1:6000")), Err(Errno::EADDRINUSE));
    assert_eq!(reusing.bind(&caller(), &address("127.0.0.1:6000")), Ok(()));
    assert_eq!(reusing.listen(&caller(), 1), Ok(()));
    drop(server);
    let privileged = tcp(&network, linux::AF_INET);
    assert_eq!(privileged.bind(&caller(), &address("127.0.0.1:80")), Err(Errno::EACCES));
    assert_eq!(privileged.bind(&caller(), &address("8.8.8.8:8000")), Err(Errno::EADDRNOTAVAIL));

    let shared: Vec<_> = (0..2)
        .map(|_| {
            let socket = tcp(&network, linux::AF_INET);
            set_socket(&socket, linux::SO_REUSEPORT);
            socket.bind(&caller(), &address("127.0.0.1:6100")).unwrap();
            socket.listen(&caller(), 8).unwrap();
            socket
        })
        .collect();
    let clients: Vec<_> = (0..4).map(|_| tcp(&network, linux::AF_INET)).collect();
    for client in &clients {
        client.connect(&caller(), &to("127.0.0.1:6100")).unwrap();
    }
    assert!(shared.iter().all(|socket| socket.accept().is_ok() && socket.accept().is_ok()));
}

#[test]
fn ipv6_takes_ipv4_unless_told_not_to() {
    let network = network();
    let both = listener(&network, "[::]:5000", 5);
    let client = tcp(&network, linux::AF_INET);
    client.connect(&caller(), &to("127.0.0.1:5000")).unwrap();
    let server = both.accept().unwrap();
    assert_eq!(server.local_address(), address("[::ffff:127.0.0.1]:5000"));
    assert_eq!(tcp(&network, linux::AF_INET).bind(&caller(), &address("127.0.0.1:5000")), Err(Errno::EADDRINUSE));
    let only = tcp(&network, linux::AF_INET6);
    only.set_option(&caller(), linux::SOL_IPV6, linux::IPV6_V6ONLY, &1i32.to_ne_bytes()).unwrap();
    only.bind(&caller(), &address("[::]:5001")).unwrap();
    only.listen(&caller(), 1).unwrap();
    assert_eq!(tcp(&network, linux::AF_INET).connect(&caller(), &to("127.0.0.1:5001")), Err(Errno::ECONNREFUSED));
    assert_eq!(tcp(&network, linux::AF_INET).bind(&caller(), &address("127.0.0.1:5001")), Ok(()));
    let v6 = tcp(&network, linux::AF_INET6);
    v6.connect(&caller(), &to("[::1]:5001")).unwrap();
    assert_eq!(only.accept().unwrap().peer_address().unwrap(), v6.local_address());
}

#[test]
fn datagrams_arrive_whole_and_refusals_are_told_later() {
    let network = network();
    let receiver = udp(&network, linux::AF_INET);
    receiver.bind(&caller(), &address("127.0.0.1:53000")).unwrap();
    let sender = udp(&network, linux::AF_INET);
    assert_eq!(send(&sender, b"x"), Err(Errno::EDESTADDRREQ));
    let send_to = |to| sender.send(&caller(), b"hello", &mut Outgoing { destination: Some(to), ..Outgoing::default() });
    assert_eq!(send_to(to("127.0.0.1:53000")), Ok(5));
    let mut buffer = [0; 3];
    let Incoming { count, full_length, flags, source, .. } = receiver.receive(&mut buffer, MessageFlags::empty()).unwrap();
    assert_eq!((count, full_length, flags), (3, 5, MessageFlags::TRUNC));
    let Some(Address::Inet(source)) = source else { panic!("no source") };
    assert_eq!(source.ip().to_string(), "127.0.0.1");
    assert_eq!(send_to(to("192.0.2.1:53000")), Err(Errno::ENETUNREACH));
    assert_eq!(send_to(to("127.0.0.1:1")), Ok(5));
    assert!(!sender.poll().contains(Events::ERR));
    sender.connect(&caller(), &to("127.0.0.1:1")).unwrap();
    assert_eq!(send(&sender, b"x"), Ok(1));
    assert!(sender.poll().contains(Events::ERR));
    assert_eq!(receive(&sender), Err(Errno::ECONNREFUSED));
    assert_eq!(receive(&sender), Err(Errno::EAGAIN));
    sender.connect(&caller(), &Destination::plain(Address::Unspecified)).unwrap();
    assert_eq!(sender.peer_address(), Err(Errno::ENOTCONN));
    assert_eq!(sender.local_address(), Address::Inet(std::net::SocketAddr::new("0.0.0.0".parse().unwrap(), source.port())));
    sender.connect(&caller(), &to("127.0.0.1:53000")).unwrap();
    // Connected, it hears only its peer.
    let stranger = udp(&network, linux::AF_INET);
    let local = Destination::plain(sender.local_address());
    stranger.send(&caller(), b"no", &mut Outgoing { destination: Some(local), ..Outgoing::default() }).unwrap();
    assert_eq!(receive(&sender), Err(Errno::EAGAIN));
    assert_eq!(send(&sender, &vec![0; 65_508]), Err(Errno::EMSGSIZE));
    send(&sender, &[7; 65_507]).unwrap();
    receiver.close();
    assert_eq!(network.budget.used(), 0);
}

#[test]
fn what_more_follows_is_held_back() {
    let (client, server) = pair(&network());
    let send_more = |data| client.send(&caller(), data, &mut Outgoing { flags: MessageFlags::MORE, ..Outgoing::default() });
    assert_eq!(send_more(b"one "), Ok(4));
    assert_eq!(receive(&server), Err(Errno::EAGAIN));
    assert_eq!(send(&client, b"two"), Ok(3));
    assert_eq!(receive(&server).unwrap(), b"one two");
    send_more(b"late").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(receive(&server).unwrap(), b"late");
    send_more(b"last").unwrap();
    client.close();
    assert_eq!(receive(&server).unwrap(), b"last");
    assert_eq!(receive(&server).unwrap(), b"");
}

#[test]
fn a_connect_that_must_not_wait_is_told_later() {
    let network = network();
    let _listener = listener(&network, "127.0.0.1:7100", 5);
    let client = tcp(&network, linux::AF_INET);
    assert_eq!(client.connect_nowait(&caller(), &to("127.0.0.1:7100")), Err(Errno::EINPROGRESS));
    assert_eq!(client.connect_nowait(&caller(), &to("127.0.0.1:7100")), Ok(()));
    assert_eq!(client.connect_nowait(&caller(), &to("127.0.0.1:7100")), Err(Errno::EISCONN));
    let refused = tcp(&network, linux::AF_INET);
    assert_eq!(refused.connect_nowait(&caller(), &to("127.0.0.1:7101")), Err(Errno::EINPROGRESS));
    assert!(refused.poll().contains(Events::OUT | Events::ERR | Events::HUP));
    assert_eq!(refused.connect_nowait(&caller(), &to("127.0.0.1:7101")), Err(Errno::ECONNREFUSED));
    assert_eq!(refused.connect_nowait(&caller(), &to("127.0.0.1:7101")), Err(Errno::EINPROGRESS));
}

#[test]
fn the_urgent_byte_goes_beside_the_stream_or_in_it() {
    let network = network();
    let (client, server) = pair(&network);
    let urgent = |socket: &Arc<dyn Socket>| {
        let mut buffer = [0; 4];
        socket.receive(&mut buffer, MessageFlags::OOB).map(|incoming| (incoming.count, buffer[0]))
    };
    let send_urgent = |data| client.send(&caller(), data, &mut Outgoing { flags: MessageFlags::OOB, ..Outgoing::default() });
    assert_eq!(urgent(&server), Err(Errno::EINVAL));
    send(&client, b"ab").unwrap();
    send_urgent(b"cX").unwrap();
    send(&client, b"de").unwrap();
    assert!(server.poll().contains(Events::PRI | Events::IN));
    assert_eq!(server.available(), Ok(3));
    assert_eq!(receive(&server).unwrap(), b"abc");
    assert_eq!(server.is_at_urgent_mark(), Ok(true));
    assert_eq!(urgent(&server), Ok((1, b'X')));
    assert_eq!(urgent(&server), Err(Errno::EINVAL));
    assert!(!server.poll().contains(Events::PRI));
    assert_eq!(receive(&server).unwrap(), b"de");
    send_urgent(b"!").unwrap();
    assert!(!server.poll().contains(Events::IN));
    assert_eq!(receive(&server), Err(Errno::EAGAIN));
    assert_eq!(urgent(&server), Ok((1, b'!')));
    set_socket(&server, linux::SO_OOBINLINE);
    send(&client, b"f").unwrap();
    send_urgent(b"Y").unwrap();
    assert_eq!(receive(&server).unwrap(), b"!f");
    assert_eq!(receive(&server).unwrap(), b"Y");
}
