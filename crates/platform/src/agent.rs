//! What `skerry-agent` needs of its host beyond the safe calls: a fork's way to its program, mounts by descriptor, the deaths
//! of children with what they used. All of it in a process of one thread.

use crate::HostError;
use rustix::thread::UnshareFlags;
use std::ffi::{CStr, CString};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Leaves for new namespaces (CLONE_NEW* flags only), with one thread.
pub fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    let shared = UnshareFlags::FILES | UnshareFlags::FS | UnshareFlags::SYSVSEM;
    // SAFETY: no descriptor table is parted with: the flags that could are taken out.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces - shared) }?)
}

/// MOUNT_ATTR_* flags for a mount and, if asked, those below it (mount_setattr(2)).
pub fn set_mount_attributes(mount: BorrowedFd, attributes: u64, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let wanted = MountAttributes { set: attributes, clear: 0, propagation: 0, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of::<MountAttributes>();
    // SAFETY: an empty string, a plain structure of ours and its size.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &wanted, size) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The loopback interface of our network namespace is up.
pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: a socket of ours; the request is a plain structure that names "lo".
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A network card of ours gets an address in a network of so many bits, is up, and leads to everywhere else by a gateway in it.
pub fn raise_card(name: &str, address: Ipv4Addr, bits: u8, gateway: Ipv4Addr) -> io::Result<()> {
    let inet = |address: Ipv4Addr| {
        // SAFETY: a plain structure; all zero is a value of it.
        let mut inet: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        inet.sin_family = libc::AF_INET as libc::sa_family_t;
        inet.sin_addr.s_addr = u32::from(address).to_be();
        // SAFETY: `sockaddr_in` is one of the structures that a `sockaddr` stands for, and as long.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
    };
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0));
    // SAFETY: a socket of ours; requests are plain structures, whose names end with a zero.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_addr = inet(address);
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request))?;
        request.ifr_ifru.ifru_netmask = inet(mask);
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK, &request))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request))?;
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = inet(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = inet(gateway);
        route.rt_flags = (libc::RTF_UP | libc::RTF_GATEWAY) as libc::c_ushort;
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route))
    }
}

/// In a fork that is to execute: a descriptor is handed on, as that number. What was there is closed.
pub fn hand_on_as(descriptor: BorrowedFd, number: RawFd) -> io::Result<()> {
    // SAFETY: numbers only; whoever had that number has no more use for it before the program.
    if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A session keyring of our own, so that the caller's keys are out of reach. Hosts without keyrings have none to hide.
pub fn leave_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name makes an anonymous one.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// A child that has ended, and what it and those it waited for have used.
pub struct Dead {
    pub pid: i32,
    /// Of an exit, 0 to 255; else the signal, and whether there is a core file.
    pub end: Result<i32, (i32, bool)>,
    pub user: Duration,
    pub system: Duration,
    pub peak_resident_bytes: u64,
}

/// The next child that has ended, if one has. Never waits.
pub fn reap() -> Option<Dead> {
    wait4(libc::WNOHANG)
}

/// The next child that ends; `None`: there is none.
pub fn wait_for_any() -> Option<Dead> {
    wait4(0)
}

fn wait4(options: libc::c_int) -> Option<Dead> {
    let mut status = 0;
    // SAFETY: plain structures of ours, which the host fills where it returns a pid.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let mut wait = |usage: *mut libc::rusage| loop {
            let pid = libc::wait4(-1, &mut status, options | libc::__WALL, usage);
            if pid >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                break pid;
            }
        };
        (wait(&mut usage), usage)
    };
    if pid <= 0 {
        return None;
    }
    let time = |value: libc::timeval| Duration::new(value.tv_sec.max(0) as u64, value.tv_usec.clamp(0, 999_999) as u32 * 1000);
    let end = if libc::WIFSIGNALED(status) {
        Err((libc::WTERMSIG(status), libc::WCOREDUMP(status)))
    } else {
        Ok(libc::WEXITSTATUS(status))
    };
    let peak_resident_bytes = usage.ru_maxrss.max(0) as u64 * 1024;
    Some(Dead { pid, end, user: time(usage.ru_utime), system: time(usage.ru_stime), peak_resident_bytes })
}

/// Random numbers from here on have nothing in common with those before (random(4)).
pub fn renew_random_numbers(entropy: &[u8]) -> io::Result<()> {
    /// `struct rand_pool_info` with room for what a host sends.
    #[repr(C)]
    struct Pool {
        entropy_count: libc::c_int,
        buf_size: libc::c_int,
        buf: [u8; 64],
    }
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    let mut pool = Pool { entropy_count: 0, buf_size: 0, buf: [0; 64] };
    let length = entropy.len().min(pool.buf.len());
    pool.buf[..length].copy_from_slice(&entropy[..length]);
    (pool.entropy_count, pool.buf_size) = (length as libc::c_int * 8, length as libc::c_int);
    let device = std::fs::File::open("/dev/urandom")?;
    // SAFETY: the structure is as long as it says, and outlives the calls.
    let done = unsafe {
        libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &pool) == 0 && libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What we execute next is not put at random addresses (personality(2)).
pub fn fix_addresses() {
    // SAFETY: a plain number.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
}

/// kill(2): `pid` as there, also negative. With signals that have no name too.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A signal to the process that a descriptor stands for, never to another one that has got its number (pidfd_send_signal(2)).
pub fn signal_by_descriptor(process: BorrowedFd, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a descriptor of ours; no memory goes along.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, nothing, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A signal to one thread of a process (tgkill(2)).
pub fn signal_thread(process: i32, thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory goes along.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// In a fork: signals as a program expects them, none blocked, none ignored.
pub fn reset_signals() {
    // SAFETY: default actions, an empty mask; numbers that are refused (SIGKILL, the C library's own) do not matter.
    unsafe {
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Lets a fork die when its parent does.
pub fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// execve(2); returns only where it fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: null-terminated arrays of strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes what an open file holds, with our own arguments and no environment.
pub fn execute_file(file: BorrowedFd, arguments: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), [std::ptr::null::<libc::c_char>()]);
    // SAFETY: as above.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A fork, while there is one thread. `Ok(None)` in the child.
pub fn fork() -> Result<Option<i32>, HostError> {
    // SAFETY: with one thread the child has the whole program in a consistent state.
    match unsafe { libc::fork() } {
        -1 => Err(HostError::last("fork")),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Leaves a fork without the parent's tidying up.
pub fn leave(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// A filter for the calling thread, which has no_new_privs; `told`: with a listener, whose number is returned.
pub fn install_filter(instructions: &[u64], told: bool) -> io::Result<Option<OwnedFd>> {
    const SET_MODE_FILTER: libc::c_long = 1;
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    #[repr(C)]
    struct Program {
        length: libc::c_ushort,
        instructions: *const u64,
    }
    let length = libc::c_ushort::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { length, instructions: instructions.as_ptr() };
    // SAFETY: the program is `struct sock_fprog`, over as many eight-byte `struct sock_filter` as it says.
    let install = |flags: libc::c_ulong| unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program) };
    let result = match told {
        false => install(0),
        // Kernels from before 5.19 do not know the second flag: there signals interrupt a call that waits to be looked at.
        true => match install(NEW_LISTENER | WAIT_KILLABLE_RECV) {
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => install(NEW_LISTENER),
            result => result,
        },
    };
    match i32::try_from(result) {
        Err(_) | Ok(-1) => Err(io::Error::last_os_error()),
        Ok(_) if !told => Ok(None),
        // SAFETY: the host has just made it for us.
        Ok(number) => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
    }
}

/// Orphans below us become our children.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: numbers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether there is a child, alive or to be reaped.
pub fn have_children() -> bool {
    // SAFETY: the host fills the structure; WNOWAIT leaves all as it is.
    unsafe {
        let mut information: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut information, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL) == 0
    }
}

/// The host's version of Landlock; 0: it has none, or does not use it.
pub fn landlock_abi() -> u32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: no attributes, as the flag demands.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// The ids by which this thread's access to files is judged (setfsuid(2), setfsgid(2)).
pub fn set_file_ids((uid, gid): (u32, u32)) {
    // SAFETY: numbers only.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
}
