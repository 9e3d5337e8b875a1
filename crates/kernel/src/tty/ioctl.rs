//! Terminals' ioctls (ioctl_tty(2)), for both sides.

use super::files::{MasterFile, SlaveFile};
use super::job_control;
use super::terminal::Terminal;
use super::termios::{Termio, Termios, WindowSize, TERMIOS_SIZE, VSTART, VSTOP};
use crate::fs::file::OpenFile;
use crate::task::credentials::CAP_SYS_ADMIN;
use crate::{Context, Errno, Result};
use skerry_abi::signal::Signal;
use std::sync::Arc;
use zerocopy::{FromZeros, IntoBytes};

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCGETA: u32 = 0x5405;
const TCSETA: u32 = 0x5406;
const TCSETAW: u32 = 0x5407;
const TCSETAF: u32 = 0x5408;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCGSOFTCAR: u32 = 0x5419;
const TIOCSSOFTCAR: u32 = 0x541a;
const FIONREAD: u32 = 0x541b;
const TIOCCONS: u32 = 0x541d;
const TIOCPKT: u32 = 0x5420;
const TIOCNOTTY: u32 = 0x5422;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCSBRK: u32 = 0x5427;
const TIOCCBRK: u32 = 0x5428;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGDEV: u32 = 0x8004_5432;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCVHANGUP: u32 = 0x5437;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGEXCL: u32 = 0x8004_5440;
const TIOCGPTPEER: u32 = 0x5441;
/// Local mode of c_cflag.
const CLOCAL: u32 = 0o4000;

/// Which end of the terminal the ioctl came in at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Slave,
    Master,
}

impl SlaveFile {
    pub(super) fn do_ioctl(&self, context: &mut Context, file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        if self.is_dead() {
            return Err(if request == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        match request {
            TIOCSCTTY => {
                // Only who could read from it may take it (or whoever could override that).
                if !file.is_readable() && !context.task.credentials().has_capability(CAP_SYS_ADMIN) {
                    return Err(Errno::EPERM);
                }
                job_control::acquire(context.task, self.terminal(), argument == 1)?;
                Ok(0)
            }
            TIOCNOTTY => job_control::give_up(context.task, self.terminal()).map(|()| 0),
            FIONREAD => {
                let length = self.terminal().state().discipline.input_length();
                write_int(context, argument, length as i32)
            }
            _ => common(context, self.terminal(), Side::Slave, request, argument),
        }
    }
}

impl MasterFile {
    pub(super) fn do_ioctl(&self, context: &mut Context, request: u32, argument: u64) -> Result<u64> {
        let terminal = self.terminal();
        match request {
            TIOCGPTN => write_int(context, argument, terminal.index() as i32),
            TIOCSPTLCK => {
                let locked: i32 = context.read(argument)?;
                terminal.state().locked = locked != 0;
                Ok(0)
            }
            TIOCGPTLCK => {
                let locked = terminal.state().locked;
                write_int(context, argument, locked.into())
            }
            TIOCPKT => {
                let on: i32 = context.read(argument)?;
                let mut state = terminal.state();
                if (on != 0) != state.packet_mode {
                    state.packet_mode = on != 0;
                    state.packet = 0;
                }
                Ok(0)
            }
            TIOCGPKT => {
                let on = terminal.state().packet_mode;
                write_int(context, argument, on.into())
            }
            TIOCGPTPEER => super::files::open_peer(context, terminal, argument as u32).map(|fd| fd as u64),
            TIOCSIG => {
                let signal = Signal::new(argument as i32).ok_or(Errno::EINVAL)?;
                terminal.signal_foreground(signal);
                Ok(0)
            }
            FIONREAD => {
                let length = terminal.state().discipline.output_length();
                write_int(context, argument, length as i32)
            }
            // A master is nobody's controlling terminal.
            TIOCSCTTY => Err(Errno::EINVAL),
            TIOCNOTTY => Err(Errno::ENOTTY),
            _ => common(context, terminal, Side::Master, request, argument),
        }
    }
}

fn write_int(context: &Context, address: u64, value: i32) -> Result<u64> {
    context.write(address, &value)?;
    Ok(0)
}

fn common(context: &mut Context, terminal: &Arc<Terminal>, side: Side, request: u32, argument: u64) -> Result<u64> {
    // What changes the terminal is not for background processes (tty_check_change).
    if matches!(
        request,
        TCSETS
            | TCSETSW
            | TCSETSF
            | TCSETS2
            | TCSETSW2
            | TCSETSF2
            | TCSETA
            | TCSETAW
            | TCSETAF
            | TCSBRK
            | TCSBRKP
            | TCXONC
            | TCFLSH
            | TIOCSETD
            | TIOCSBRK
            | TIOCCBRK
    ) {
        job_control::check_foreground(context.task, terminal, Signal::SIGTTOU)?;
    }
    match request {
        TCGETS => {
            let termios = terminal.termios();
            context.write_bytes(argument, &termios.as_bytes()[..TERMIOS_SIZE])?;
            Ok(0)
        }
        TCGETS2 => {
            context.write(argument, &terminal.termios())?;
            Ok(0)
        }
        TCGETA => {
            context.write(argument, &terminal.termios().termio())?;
            Ok(0)
        }
        TCSETS | TCSETSW | TCSETSF => {
            let mut bytes = [0; TERMIOS_SIZE];
            context.read_bytes(argument, &mut bytes)?;
            let mut termios = terminal.termios();
            termios.as_mut_bytes()[..TERMIOS_SIZE].copy_from_slice(&bytes);
            terminal.set_termios(termios, request == TCSETSF);
            Ok(0)
        }
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            let mut termios = Termios::new_zeroed();
            context.read_bytes(argument, termios.as_mut_bytes())?;
            terminal.set_termios(termios, request == TCSETSF2);
            Ok(0)
        }
        TCSETA | TCSETAW | TCSETAF => {
            let old: Termio = context.read(argument)?;
            terminal.set_termios(terminal.termios().with_termio(&old), request == TCSETAF);
            Ok(0)
        }
        // What is written is with the master at once: there is nothing to wait for, and no line to break.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => Ok(0),
        TCXONC => flow(terminal, side, argument),
        TCFLSH => {
            let (input, output) = match argument {
                0 => (true, false),
                1 => (false, true),
                2 => (true, true),
                _ => return Err(Errno::EINVAL),
            };
            match side {
                Side::Slave => terminal.flush(input, output),
                Side::Master => terminal.flush(output, input),
            }
            Ok(0)
        }
        TIOCEXCL => {
            terminal.state().exclusive = true;
            Ok(0)
        }
        TIOCNXCL => {
            terminal.state().exclusive = false;
            Ok(0)
        }
        TIOCGEXCL => {
            let exclusive = terminal.state().exclusive;
            write_int(context, argument, exclusive.into())
        }
        TIOCGPGRP => {
            if side == Side::Slave && !job_control::is_controlling(context.task, terminal) {
                return Err(Errno::ENOTTY);
            }
            let group = terminal.foreground_group_id().unwrap_or(0);
            write_int(context, argument, group)
        }
        TIOCSPGRP => {
            let id: i32 = context.read(argument)?;
            job_control::set_foreground(context.task, terminal, id)?;
            Ok(0)
        }
        TIOCGSID => {
            if side == Side::Slave && !job_control::is_controlling(context.task, terminal) {
                return Err(Errno::ENOTTY);
            }
            let session = terminal.state().session.upgrade().ok_or(Errno::ENOTTY)?;
            write_int(context, argument, session.id)
        }
        TIOCGWINSZ => {
            context.write(argument, &terminal.window())?;
            Ok(0)
        }
        TIOCSWINSZ => {
            let window: WindowSize = context.read(argument)?;
            terminal.set_window(window);
            Ok(0)
        }
        TIOCOUTQ => write_int(context, argument, 0),
        // Typing into another's terminal: refused, as with Linux's dev.tty.legacy_tiocsti = 0.
        TIOCSTI => Err(Errno::EIO),
        TIOCCONS => Err(Errno::EPERM),
        TIOCGETD => write_int(context, argument, 0),
        TIOCSETD => match context.read::<i32>(argument)? {
            0 => Ok(0),
            _ => Err(Errno::EINVAL),
        },
        TIOCGSOFTCAR => {
            let local = terminal.termios().cflag & CLOCAL != 0;
            write_int(context, argument, local.into())
        }
        TIOCSSOFTCAR => {
            let on: i32 = context.read(argument)?;
            let mut termios = terminal.termios();
            termios.cflag = if on != 0 { termios.cflag | CLOCAL } else { termios.cflag & !CLOCAL };
            terminal.set_termios(termios, false);
            Ok(0)
        }
        TIOCGDEV => {
            context.write(argument, &(terminal.device().encode() as u32))?;
            Ok(0)
        }
        TIOCVHANGUP => {
            if !context.task.credentials().has_capability(CAP_SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            terminal.hang_up();
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// TCXONC: stop or start output (TCOOFF, TCOON), or have the other side do so (TCIOFF, TCION).
fn flow(terminal: &Arc<Terminal>, side: Side, argument: u64) -> Result<u64> {
    match argument {
        0 => terminal.set_stopped(true),
        1 => terminal.set_stopped(false),
        2 | 3 => {
            let termios = terminal.termios();
            let character = termios.character(if argument == 2 { VSTOP } else { VSTART });
            if character != 0 && side == Side::Slave {
                let generation = terminal.state().generation;
                let _ = terminal.write_slave(generation, &[character]);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
