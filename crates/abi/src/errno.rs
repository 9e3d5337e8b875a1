//! Error numbers (errno(3)), including the kernel-internal restart codes that never reach a program.

use core::fmt;

/// An error number, as errno(3) lists them: positive, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(pub const $name: Errno = Errno(linux_raw_sys::errno::$name as i32);)*

            /// The symbolic name, for logs; "E?" for a number that Linux does not name.
            pub const fn name(self) -> &'static str {
                $(if self.0 == Errno::$name.0 { return stringify!($name); })*
                match self.0 {
                    512 => "ERESTARTSYS",
                    513 => "ERESTARTNOINTR",
                    514 => "ERESTARTNOHAND",
                    516 => "ERESTART_RESTARTBLOCK",
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM, ENOENT, ESRCH, EINTR, EIO, ENXIO, E2BIG, ENOEXEC, EBADF, ECHILD, EAGAIN, ENOMEM, EACCES, EFAULT, ENOTBLK,
    EBUSY, EEXIST, EXDEV, ENODEV, ENOTDIR, EISDIR, EINVAL, ENFILE, EMFILE, ENOTTY, ETXTBSY, EFBIG, ENOSPC, ESPIPE,
    EROFS, EMLINK, EPIPE, EDOM, ERANGE, EDEADLK, ENAMETOOLONG, ENOLCK, ENOSYS, ENOTEMPTY, ELOOP, ENOMSG, EIDRM,
    ENODATA, ETIME, EPROTO, EBADMSG, EOVERFLOW, EILSEQ, EUSERS, ENOTSOCK, EDESTADDRREQ, EMSGSIZE, EPROTOTYPE,
    ENOPROTOOPT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EOPNOTSUPP, EPFNOSUPPORT, EAFNOSUPPORT, EADDRINUSE,
    EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ENETRESET, ECONNABORTED, ECONNRESET, ENOBUFS, EISCONN, ENOTCONN,
    ESHUTDOWN, ETOOMANYREFS, ETIMEDOUT, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EALREADY, EINPROGRESS, ESTALE,
    EDQUOT, ECANCELED, EOWNERDEAD, ENOTRECOVERABLE, ENOKEY, ELIBBAD,
}

impl Errno {
    /// A signal ended the call: restart it if the handler has SA_RESTART, else EINTR. Never seen by a program.
    pub const ERESTARTSYS: Errno = Errno(512);
    /// A signal ended the call: always restart it.
    pub const ERESTARTNOINTR: Errno = Errno(513);
    /// A signal ended the call: restart only if no handler runs (else EINTR).
    pub const ERESTARTNOHAND: Errno = Errno(514);
    /// As ERESTARTNOHAND, but restarted through restart_syscall(2) with what the task's restart block says.
    pub const ERESTART_RESTARTBLOCK: Errno = Errno(516);

    /// The value as a system call returns it: -errno.
    pub const fn as_return_value(self) -> i64 {
        -(self.0 as i64)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}
