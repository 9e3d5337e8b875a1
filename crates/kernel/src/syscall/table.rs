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
    7 poll crate::syscall::poll::poll, Kernel Full "";
    22 pipe crate::syscall::ipc::pipe, Kernel Full "";
    23 select crate::syscall::poll::select, Kernel Full "";
    35 nanosleep crate::syscall::time::nanosleep, Kernel Full "";
    36 getitimer crate::syscall::timer::getitimer, Kernel Full "";
    37 alarm crate::syscall::timer::alarm, Kernel Full "";
    38 setitimer crate::syscall::timer::setitimer, Kernel Full "";
    96 gettimeofday crate::syscall::time::gettimeofday, Kernel Full "";
    164 settimeofday crate::syscall::time::settimeofday, Kernel Refused "the clock is the host's";
    201 time crate::syscall::time::time, Kernel Full "";
    219 restart_syscall crate::syscall::time::restart_syscall, Kernel Full "";
    213 epoll_create crate::syscall::event::epoll_create, Kernel Full "";
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
    270 pselect6 crate::syscall::poll::pselect6, Kernel Full "";
    271 ppoll crate::syscall::poll::ppoll, Kernel Full "";
    281 epoll_pwait crate::syscall::event::epoll_pwait, Kernel Full "";
    283 timerfd_create crate::syscall::timer::timerfd_create, Kernel Full "";
    284 eventfd crate::syscall::event::eventfd, Kernel Full "";
    286 timerfd_settime crate::syscall::timer::timerfd_settime, Kernel Full "";
    287 timerfd_gettime crate::syscall::timer::timerfd_gettime, Kernel Full "";
    290 eventfd2 crate::syscall::event::eventfd2, Kernel Full "";
    291 epoll_create1 crate::syscall::event::epoll_create1, Kernel Full "";
    293 pipe2 crate::syscall::ipc::pipe2, Kernel Full "no O_NOTIFICATION_PIPE";
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
