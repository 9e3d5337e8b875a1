//! The system call table: ONE row per call. Documents and traces are made from it.

use super::argument::serve;
use crate::{Context, Result};

/// Where a call is served (ARCHITECTURE.md, "The four classes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Could be answered in the stub without leaving the process.
    Local,
    /// Carried out by the host kernel in the application's process, arguments checked.
    Host,
    /// On open regular files.
    Data,
    /// In the guest kernel.
    Kernel,
}

/// How much of the man page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// See the row's note.
    Partial,
    /// Always an error, as on a Linux without the feature.
    Refused,
}

/// One row.
pub struct Row {
    pub number: u64,
    pub name: &'static str,
    pub class: Class,
    pub support: Support,
    pub note: &'static str,
    pub handler: fn(&mut Context, &[u64; 6]) -> Result<u64>,
}

macro_rules! rows {
    ($( $number:literal $name:ident $handler:path, $class:ident $support:ident $note:literal; )*) => {
        /// All rows, by number.
        pub static ROWS: &[Row] = &[$(Row {
            number: $number,
            name: stringify!($name),
            class: Class::$class,
            support: Support::$support,
            note: $note,
            handler: |context, registers| serve($handler, context, registers),
        }),*];
    };
}

// number name handler, class support note;   (keep the order of numbers: a test checks it)
rows! {
    41 socket crate::syscall::socket::socket, Kernel Full "AF_UNIX, AF_INET, AF_INET6 (TCP, UDP), AF_NETLINK (route, sock_diag, uevent, generic)";
    42 connect crate::syscall::socket::connect, Kernel Full "";
    43 accept crate::syscall::socket::accept, Kernel Full "";
    44 sendto crate::syscall::socket::sendto, Kernel Full "";
    45 recvfrom crate::syscall::socket::recvfrom, Kernel Full "";
    46 sendmsg crate::syscall::socket::sendmsg, Kernel Full "";
    47 recvmsg crate::syscall::socket::recvmsg, Kernel Full "";
    48 shutdown crate::syscall::socket::shutdown, Kernel Full "";
    49 bind crate::syscall::socket::bind, Kernel Full "";
    50 listen crate::syscall::socket::listen, Kernel Full "";
    51 getsockname crate::syscall::socket::getsockname, Kernel Full "";
    52 getpeername crate::syscall::socket::getpeername, Kernel Full "";
    53 socketpair crate::syscall::socket::socketpair, Kernel Full "";
    54 setsockopt crate::syscall::socket::setsockopt, Kernel Partial "packet filters and MSG_ZEROCOPY are refused";
    55 getsockopt crate::syscall::socket::getsockopt, Kernel Full "";
    288 accept4 crate::syscall::socket::accept4, Kernel Full "";
    299 recvmmsg crate::syscall::socket::recvmmsg, Kernel Full "";
    307 sendmmsg crate::syscall::socket::sendmmsg, Kernel Full "";
}

/// The row of a call number.
pub fn find(number: u64) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&number, |row| row.number).ok().map(|index| &ROWS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_unique() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
    }
}
