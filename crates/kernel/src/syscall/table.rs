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
    0 read crate::syscall::read_write::read, Data Full "";
    1 write crate::syscall::read_write::write, Data Full "";
    2 open crate::syscall::path::open, Kernel Full "";
    3 close crate::syscall::descriptor::close, Kernel Full "";
    4 stat crate::syscall::path::stat, Kernel Full "";
    5 fstat crate::syscall::path::fstat, Kernel Full "";
    6 lstat crate::syscall::path::lstat, Kernel Full "";
    7 poll crate::syscall::poll::poll, Kernel Full "";
    8 lseek crate::syscall::read_write::lseek, Data Full "";
    16 ioctl crate::syscall::descriptor::ioctl, Kernel Full "";
    17 pread64 crate::syscall::read_write::pread64, Data Full "";
    18 pwrite64 crate::syscall::read_write::pwrite64, Data Full "";
    19 readv crate::syscall::read_write::readv, Data Full "";
    20 writev crate::syscall::read_write::writev, Data Full "";
    21 access crate::syscall::path::access, Kernel Full "";
    22 pipe crate::syscall::ipc::pipe, Kernel Full "";
    23 select crate::syscall::poll::select, Kernel Full "";
    32 dup crate::syscall::descriptor::dup, Kernel Full "";
    33 dup2 crate::syscall::descriptor::dup2, Kernel Full "";
    35 nanosleep crate::syscall::time::nanosleep, Kernel Full "";
    36 getitimer crate::syscall::timer::getitimer, Kernel Full "";
    37 alarm crate::syscall::timer::alarm, Kernel Full "";
    38 setitimer crate::syscall::timer::setitimer, Kernel Full "";
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
    72 fcntl crate::syscall::descriptor::fcntl, Kernel Partial "no leases";
    73 flock crate::syscall::lock::flock, Kernel Full "";
    78 getdents crate::syscall::directory::getdents, Kernel Full "";
    79 getcwd crate::syscall::path::getcwd, Kernel Full "";
    80 chdir crate::syscall::path::chdir, Kernel Full "";
    81 fchdir crate::syscall::path::fchdir, Kernel Full "";
    85 creat crate::syscall::path::creat, Kernel Full "";
    89 readlink crate::syscall::path::readlink, Kernel Full "";
    95 umask crate::syscall::path::umask, Kernel Full "";
    96 gettimeofday crate::syscall::time::gettimeofday, Kernel Full "";
    161 chroot crate::syscall::path::chroot, Kernel Full "";
    164 settimeofday crate::syscall::time::settimeofday, Kernel Refused "the clock is the host's";
    201 time crate::syscall::time::time, Kernel Full "";
    213 epoll_create crate::syscall::event::epoll_create, Kernel Full "";
    217 getdents64 crate::syscall::directory::getdents64, Kernel Full "";
    219 restart_syscall crate::syscall::time::restart_syscall, Kernel Full "";
    222 timer_create crate::syscall::timer::timer_create, Kernel Full "";
    223 timer_settime crate::syscall::timer::timer_settime, Kernel Full "";
    224 timer_gettime crate::syscall::timer::timer_gettime, Kernel Full "";
    225 timer_getoverrun crate::syscall::timer::timer_getoverrun, Kernel Full "";
    226 timer_delete crate::syscall::timer::timer_delete, Kernel Full "";
    227 clock_settime crate::syscall::time::clock_settime, Kernel Refused "the clock is the host's";
    228 clock_gettime crate::syscall::time::clock_gettime, Kernel Full "";
    229 clock_getres crate::syscall::time::clock_getres, Kernel Full "";
    230 clock_nanosleep crate::syscall::time::clock_nanosleep, Kernel Full "";
    232 epoll_wait crate::syscall::event::epoll_wait, Kernel Full "";
    233 epoll_ctl crate::syscall::event::epoll_ctl, Kernel Full "EPOLLEXCLUSIVE wakes all";
    257 openat crate::syscall::path::openat, Kernel Full "";
    262 newfstatat crate::syscall::path::newfstatat, Kernel Full "";
    267 readlinkat crate::syscall::path::readlinkat, Kernel Full "";
    269 faccessat crate::syscall::path::faccessat, Kernel Full "";
    270 pselect6 crate::syscall::poll::pselect6, Kernel Full "";
    271 ppoll crate::syscall::poll::ppoll, Kernel Full "";
    281 epoll_pwait crate::syscall::event::epoll_pwait, Kernel Full "";
    283 timerfd_create crate::syscall::timer::timerfd_create, Kernel Full "";
    284 eventfd crate::syscall::event::eventfd, Kernel Full "";
    286 timerfd_settime crate::syscall::timer::timerfd_settime, Kernel Full "";
    287 timerfd_gettime crate::syscall::timer::timerfd_gettime, Kernel Full "";
    288 accept4 crate::syscall::socket::accept4, Kernel Full "";
    290 eventfd2 crate::syscall::event::eventfd2, Kernel Full "";
    291 epoll_create1 crate::syscall::event::epoll_create1, Kernel Full "";
    292 dup3 crate::syscall::descriptor::dup3, Kernel Full "";
    293 pipe2 crate::syscall::ipc::pipe2, Kernel Full "no O_NOTIFICATION_PIPE";
    295 preadv crate::syscall::read_write::preadv, Data Full "";
    296 pwritev crate::syscall::read_write::pwritev, Data Full "";
    299 recvmmsg crate::syscall::socket::recvmmsg, Kernel Full "";
    307 sendmmsg crate::syscall::socket::sendmmsg, Kernel Full "";
    327 preadv2 crate::syscall::read_write::preadv2, Data Full "";
    328 pwritev2 crate::syscall::read_write::pwritev2, Data Full "";
    332 statx crate::syscall::path::statx, Kernel Full "";
    436 close_range crate::syscall::descriptor::close_range, Kernel Full "";
    437 openat2 crate::syscall::path::openat2, Kernel Full "";
    439 faccessat2 crate::syscall::path::faccessat2, Kernel Full "";
    441 epoll_pwait2 crate::syscall::event::epoll_pwait2, Kernel Full "";
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
