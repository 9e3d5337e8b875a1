//! A terminal: both sides of a pseudo-terminal, and who it controls.
//!
//! [`Terminal`] joins the master side (an emulator: a program with /dev/ptmx open, or the [`super::console`]) and the
//! slave side (what programs have as their terminal). Its life: unlocked by the master's owner, slave opened and closed
//! any number of times, hung up when the master goes. An opening of the slave belongs to one
//! generation; a hang-up begins the next, and files of earlier ones are dead (read 0, write EIO).
//!
//! Lock order: `Terminal::state` is inside of the task room's locks and is released before signals are sent, a session's
//! fields are touched, or anybody is woken.

use super::discipline::{
    Discipline, PACKET_DO_STOP, PACKET_FLUSH_READ, PACKET_FLUSH_WRITE, PACKET_NO_STOP, PACKET_START, PACKET_STOP,
};
use super::termios::{Input, Local, Termios, WindowSize, VMIN, VSTART, VSTOP, VTIME};
use crate::fs::file::Events;
use crate::fs::inode::Device;
use crate::sync::WaitQueue;
use crate::task::{ProcessGroup, Session};
use crate::{Errno, Kernel, Result};
use parking_lot::{Mutex, MutexGuard};
use skerry_abi::signal::{Signal, SignalInfo};
use skerry_abi::structs::TimeSpec;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Major number of the slaves (devices.txt).
pub const SLAVE_MAJOR: u32 = 136;

/// See the module's text.
pub struct Terminal {
    index: u32,
    pub(super) kernel: Weak<Kernel>,
    state: Mutex<State>,
    /// Woken when the slave's readers or writers may go on.
    pub(super) slave_queue: WaitQueue,
    /// Woken when the master's may.
    pub(super) master_queue: WaitQueue,
}

/// What the terminal's lock guards.
pub(super) struct State {
    pub discipline: Discipline,
    pub window: WindowSize,
    /// TIOCSPTLCK: the slave cannot be opened yet.
    pub locked: bool,
    pub master_open: bool,
    /// Openings of the slave, hung up ones too.
    pub slaves: usize,
    /// Some slave has been opened (and closed again, if `slaves` is 0): the master then reads EIO instead of waiting.
    pub slave_was_open: bool,
    pub generation: u64,
    /// TIOCEXCL.
    pub exclusive: bool,
    /// TIOCPKT, and what there is to tell.
    pub packet_mode: bool,
    pub packet: u8,
    pub session: Weak<Session>,
    pub foreground: Weak<ProcessGroup>,
    /// Of the node in devpts.
    pub permissions: u32,
    pub owner: (u32, u32),
    pub changed: TimeSpec,
    /// When something was typed last (VTIME).
    pub last_input: Option<Instant>,
}

/// Who reads or writes the slave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    Alive,
    /// Hung up: read 0, write EIO.
    Dead,
}

impl Terminal {
    /// A terminal whose master is open and whose slave has not been. `owner`: of the slave's node.
    pub(super) fn new(kernel: Weak<Kernel>, index: u32, owner: (u32, u32)) -> Arc<Terminal> {
        Arc::new(Terminal {
            index,
            kernel,
            state: Mutex::new(State {
                discipline: Discipline::default(),
                window: WindowSize::default(),
                locked: true,
                master_open: true,
                slaves: 0,
                slave_was_open: false,
                generation: 0,
                exclusive: false,
                packet_mode: false,
                packet: 0,
                session: Weak::new(),
                foreground: Weak::new(),
                permissions: 0o620,
                owner,
                changed: crate::fs::pseudo::now(),
                last_input: None,
            }),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    /// The number in /dev/pts.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The slave's device number.
    pub fn device(&self) -> Device {
        Device::new(SLAVE_MAJOR, self.index)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn foreground_group_id(&self) -> Option<i32> {
        self.state().foreground.upgrade().map(|group| group.id)
    }

    pub fn window(&self) -> WindowSize {
        self.state().window
    }

    pub fn termios(&self) -> Termios {
        *self.state().discipline.termios()
    }

    fn wake_both(&self) {
        self.slave_queue.wake_all();
        self.master_queue.wake_all();
    }

    // The slave side.

    /// Counts an opening of the slave; the generation it belongs to. EIO while it is locked or the master is gone, EBUSY
    /// where it is exclusive and the opener has no right to pass that.
    pub(super) fn open_slave(&self, may_pass_exclusive: bool) -> Result<u64> {
        let mut state = self.state();
        if state.locked || !state.master_open {
            return Err(Errno::EIO);
        }
        if state.exclusive && !may_pass_exclusive {
            return Err(Errno::EBUSY);
        }
        state.slaves += 1;
        state.slave_was_open = true;
        let generation = state.generation;
        drop(state);
        self.master_queue.wake_all();
        Ok(generation)
    }

    /// Also of a file that was hung up: the master sees the end only when the last one is closed.
    pub(super) fn close_slave(&self) {
        let mut state = self.state();
        state.slaves = state.slaves.saturating_sub(1);
        if state.slaves == 0 {
            state.exclusive = false;
        }
        drop(state);
        self.wake_both();
    }

    pub(super) fn liveness(&self, generation: u64) -> Liveness {
        if self.state().generation == generation {
            Liveness::Alive
        } else {
            Liveness::Dead
        }
    }

    /// Reads as the slave; EAGAIN where there is no line, or less than `minimum` bytes. What VTIME adds is the caller's
    /// business.
    pub(super) fn read_slave(&self, generation: u64, buffer: &mut [u8], minimum: usize) -> Result<usize> {
        let mut state = self.state();
        if state.generation != generation {
            return Ok(0);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        if !state.discipline.has_input(minimum.min(buffer.len())) {
            return Err(Errno::EAGAIN);
        }
        let count = state.discipline.read(buffer).unwrap_or(0);
        drop(state);
        // Room for who types.
        self.master_queue.wake_all();
        Ok(count)
    }

    pub(super) fn write_slave(&self, generation: u64, buffer: &[u8]) -> Result<usize> {
        let mut state = self.state();
        if state.generation != generation || !state.master_open {
            return Err(Errno::EIO);
        }
        let count = state.discipline.write(buffer);
        drop(state);
        if count == 0 && !buffer.is_empty() {
            return Err(Errno::EAGAIN);
        }
        self.master_queue.wake_all();
        Ok(count)
    }

    pub(super) fn poll_slave(&self, generation: u64) -> Events {
        let state = self.state();
        if state.generation != generation || !state.master_open {
            return Events::IN | Events::OUT | Events::ERR | Events::HUP | Events::RDNORM | Events::WRNORM;
        }
        let termios = state.discipline.termios();
        // As Linux: VMIN counts for readiness only where VTIME does not.
        let minimum = if termios.character(VTIME) == 0 { usize::from(termios.character(VMIN)).max(1) } else { 1 };
        let mut events = Events::empty();
        if state.discipline.has_input(minimum) {
            events |= Events::IN | Events::RDNORM;
        }
        if state.discipline.has_output_room() {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    // The master side.

    /// Reads what programs wrote. EAGAIN where there is nothing, EIO once the slave has been closed.
    pub(super) fn read_master(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.state();
        if state.packet_mode && state.packet != 0 {
            buffer[0] = std::mem::take(&mut state.packet);
            return Ok(1);
        }
        if state.discipline.output_length() == 0 {
            return if state.slaves == 0 && state.slave_was_open { Err(Errno::EIO) } else { Err(Errno::EAGAIN) };
        }
        let count = if state.packet_mode {
            buffer[0] = 0;
            1 + state.discipline.take_output(&mut buffer[1..])
        } else {
            state.discipline.take_output(buffer)
        };
        drop(state);
        self.slave_queue.wake_all();
        Ok(count)
    }

    /// Types `bytes`. EAGAIN where the program must read first.
    pub(super) fn write_master(&self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.state();
        let received = state.discipline.receive(bytes);
        state.note_packet(received.packet);
        state.last_input = Some(Instant::now());
        drop(state);
        for signal in &received.signals {
            self.signal_foreground(*signal);
        }
        if received.consumed == 0 {
            return Err(Errno::EAGAIN);
        }
        // Echo is the master's to read.
        self.wake_both();
        Ok(received.consumed)
    }

    pub(super) fn poll_master(&self) -> Events {
        let state = self.state();
        let mut events = Events::empty();
        if state.discipline.output_length() > 0 || (state.packet_mode && state.packet != 0) {
            events |= Events::IN | Events::RDNORM;
        }
        if state.packet_mode && state.packet != 0 {
            events |= Events::PRI;
        }
        if state.slaves == 0 && state.slave_was_open {
            events |= Events::HUP;
        }
        if state.discipline.has_input_room() {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    /// The master is closed: the terminal is gone, and who it controlled hears SIGHUP.
    pub(super) fn close_master(&self) {
        self.state().master_open = false;
        self.hang_up();
    }

    // Both.

    /// Changes the attributes; `flush_input`: TCSETSF.
    pub(super) fn set_termios(&self, termios: Termios, flush_input: bool) {
        let mut state = self.state();
        if flush_input {
            state.discipline.flush_input();
        }
        let flow = |termios: &Termios| {
            termios.input().contains(Input::IXON) && termios.character(VSTART) == 0o21 && termios.character(VSTOP) == 0o23
        };
        let before = *state.discipline.termios();
        let accepted = Termios::accepted(termios);
        state.discipline.set_termios(accepted);
        if flow(&before) != flow(&accepted) {
            state.note_packet(if flow(&accepted) { PACKET_DO_STOP } else { PACKET_NO_STOP });
        }
        if (before.local() | accepted.local()).contains(Local::EXTPROC) {
            state.note_packet(PACKET_IOCTL);
        }
        drop(state);
        self.wake_both();
    }

    /// TCXONC with TCOOFF and TCOON.
    pub(super) fn set_stopped(&self, stopped: bool) {
        let mut state = self.state();
        if state.discipline.set_stopped(stopped) {
            state.note_packet(if stopped { PACKET_STOP } else { PACKET_START });
        }
        drop(state);
        self.wake_both();
    }

    /// TCFLSH.
    pub(super) fn flush(&self, input: bool, output: bool) {
        let mut state = self.state();
        if input {
            state.discipline.flush_input();
            state.note_packet(PACKET_FLUSH_READ);
        }
        if output {
            state.discipline.flush_output();
            state.note_packet(PACKET_FLUSH_WRITE);
        }
        drop(state);
        self.wake_both();
    }

    /// Another window size: SIGWINCH to the foreground group.
    pub fn resize(&self, columns: u16, rows: u16) {
        let window = WindowSize { rows, columns, ..self.window() };
        self.set_window(window);
    }

    pub(super) fn set_window(&self, window: WindowSize) {
        let mut state = self.state();
        if state.window == window {
            return;
        }
        state.window = window;
        drop(state);
        self.signal_foreground(Signal::SIGWINCH);
    }

    pub(super) fn signal_foreground(&self, signal: Signal) {
        let group = self.state().foreground.upgrade();
        if let (Some(group), Some(kernel)) = (group, self.kernel.upgrade()) {
            group.send_signal(&kernel, SignalInfo::kernel(signal));
        }
    }

    /// Ends the present generation: its files are dead, the session's leader gets SIGHUP and SIGCONT, the foreground
    /// group SIGHUP, and the session has no controlling terminal any more.
    pub(super) fn hang_up(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.exclusive = false;
        state.discipline.flush_input();
        let session = std::mem::take(&mut state.session).upgrade();
        let foreground = std::mem::take(&mut state.foreground).upgrade();
        drop(state);
        if let Some(kernel) = self.kernel.upgrade() {
            if let Some(session) = session {
                super::job_control::release(&session);
                if let Ok(leader) = kernel.pids.process(session.id) {
                    leader.send_signal(SignalInfo::kernel(Signal::SIGHUP));
                    leader.send_signal(SignalInfo::kernel(Signal::SIGCONT));
                }
            }
            if let Some(foreground) = foreground {
                foreground.send_signal(&kernel, SignalInfo::kernel(Signal::SIGHUP));
                foreground.send_signal(&kernel, SignalInfo::kernel(Signal::SIGCONT));
            }
        }
        self.wake_both();
    }
}

/// TIOCPKT_IOCTL.
const PACKET_IOCTL: u8 = 64;

impl State {
    /// Remembers what packet mode has to tell; opposites cancel.
    fn note_packet(&mut self, bits: u8) {
        if !self.packet_mode {
            return;
        }
        for (bit, opposite) in [
            (PACKET_STOP, PACKET_START),
            (PACKET_START, PACKET_STOP),
            (PACKET_NO_STOP, PACKET_DO_STOP),
            (PACKET_DO_STOP, PACKET_NO_STOP),
        ] {
            if bits & bit != 0 {
                self.packet &= !opposite;
            }
        }
        self.packet |= bits;
    }
}
