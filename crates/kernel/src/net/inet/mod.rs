//! TCP and UDP over loopback.
pub mod interface;
#[derive(Default)]
pub struct PortTable {}
pub fn create(
    _network: &std::sync::Arc<super::NetworkStack>,
    _caller: &super::Caller,
    _domain: u32,
    _kind: super::socket::SocketType,
    _protocol: u32,
) -> crate::Result<std::sync::Arc<dyn super::Socket>> {
    Err(crate::Errno::EAFNOSUPPORT)
}
