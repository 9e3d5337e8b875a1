//! Unix domain sockets (unix(7)): [`UnixStream`] (SOCK_STREAM and SOCK_SEQPACKET), [`UnixDatagram`], their abstract
//! names ([`AbstractNames`]), and [`tree`]: names in the file system.

mod datagram;
mod name;
mod stream;
#[cfg(test)]
mod tests;
pub mod tree;

pub use datagram::UnixDatagram;
pub use name::{AbstractNames, BoundName};
pub use stream::UnixStream;

use super::socket::{Caller, PeerIdentity, Socket, SocketType};
use super::NetworkStack;
use crate::{Errno, Result};
use std::any::Any;
use std::sync::{Arc, Weak};

/// What a name leads to, whichever type of socket it is.
pub type AnySocket = Arc<dyn Any + Send + Sync>;
pub type WeakAnySocket = Weak<dyn Any + Send + Sync>;

/// socket(2) with AF_UNIX. ESOCKTNOSUPPORT, EPROTONOSUPPORT.
pub fn create(network: &Arc<NetworkStack>, caller: &Caller, kind: SocketType, protocol: u32) -> Result<Arc<dyn Socket>> {
    // PF_UNIX as the protocol is accepted by Linux.
    if protocol != 0 && protocol != skerry_abi::raw::net::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let creator = PeerIdentity::of(caller);
    Ok(match kind {
        SocketType::Stream | SocketType::SequencedPacket => UnixStream::new(network, creator, kind),
        // Linux turns SOCK_RAW into SOCK_DGRAM here.
        SocketType::Datagram | SocketType::Raw => UnixDatagram::new(network, creator),
    })
}

/// socketpair(2).
pub fn pair(network: &Arc<NetworkStack>, caller: &Caller, kind: SocketType, protocol: u32) -> Result<[Arc<dyn Socket>; 2]> {
    if protocol != 0 && protocol != skerry_abi::raw::net::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let creator = PeerIdentity::of(caller);
    Ok(match kind {
        SocketType::Stream | SocketType::SequencedPacket => {
            UnixStream::pair(network, creator, kind).map(|end| end as Arc<dyn Socket>)
        }
        SocketType::Datagram | SocketType::Raw => UnixDatagram::pair(network, creator).map(|end| end as Arc<dyn Socket>),
    })
}

/// How a unix socket that must be named is reached, whichever type it is.
pub trait Named {
    fn bound_name(&self) -> &BoundName;
    /// Itself, as what a name leads to.
    fn target(&self) -> WeakAnySocket;
}

/// `socket` as something with a name; `None` for other families.
pub fn named(socket: &dyn Socket) -> Option<&dyn Named> {
    let any = socket.as_any();
    if let Some(stream) = any.downcast_ref::<UnixStream>() {
        return Some(stream);
    }
    any.downcast_ref::<UnixDatagram>().map(|datagram| datagram as &dyn Named)
}
