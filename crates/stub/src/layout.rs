//! What the stub and the sentry agree on: addresses, the channel, the doorbell. This one file is compiled into both.
//!
//! A thread of an application owns a *slot*: 256 KiB of address space, found from the stack pointer inside a handler by
//! rounding down. Everything in it except the channel belongs to the application process, which may scribble on it; the
//! sentry believes nothing that it reads from a channel.

/// Where the stub's own image lies in every application process.
pub const STUB_BASE: u64 = 0x7000_0000_0000;
/// Where the table of direct descriptors lies, once a process has one: an array of [`DirectEntry`] by guest descriptor.
pub const DIRECT_BASE: u64 = 0x7000_0008_0000;
/// Guest descriptors from here on are never direct.
pub const DIRECT_ENTRIES: u64 = 1024;
/// Where in the table the [`position`]s lie, a word for each entry: behind these.
pub const DIRECT_POSITIONS: u64 = DIRECT_ENTRIES * core::mem::size_of::<DirectEntry>() as u64;
pub const DIRECT_SIZE: u64 = DIRECT_POSITIONS + DIRECT_ENTRIES * core::mem::size_of::<u64>() as u64;
/// The board: names of which the sentry tells all processes that they are not there, or no links (the stub's `board.rs`). All can
/// read it, and nobody but the sentry can write there.
pub mod board {
    use core::sync::atomic::AtomicU64;

    pub const BASE: u64 = super::DIRECT_BASE + 0x1_0000;
    pub const ENTRIES: usize = 2048;
    /// The longest name, without a zero.
    pub const LONGEST: usize = NAME_WORDS * 8;
    pub const NAME_WORDS: usize = 22;

    #[repr(C, align(64))]
    pub struct Head {
        /// Entries of another edition do not hold. Never 0.
        pub edition: AtomicU64,
        /// Until when it is believed, by the processor's clock.
        pub until: AtomicU64,
    }

    /// What is said of one name. Its writer clears the stamp first, and sets it last.
    #[repr(C, align(64))]
    pub struct Entry {
        /// The edition, and below it a number that moves on.
        pub stamp: AtomicU64,
        /// The name's length, and [`NOT_THERE`] or [`NO_LINK`] above it.
        pub what: AtomicU64,
        /// Filled up with zeros.
        pub name: [AtomicU64; NAME_WORDS],
    }

    #[repr(C)]
    pub struct Board {
        pub head: Head,
        pub entries: [Entry; ENTRIES],
    }

    pub const SIZE: u64 = (core::mem::size_of::<Board>() as u64).next_multiple_of(0x1000);
    /// Where in a stamp the edition begins.
    pub const EDITION: u32 = 8;
    /// Where in [`Entry::what`] that is.
    pub const WHAT: u32 = 32;
    /// There is nothing with this name, also no link.
    pub const NOT_THERE: u64 = 1;
    /// There is something that is no symbolic link.
    pub const NO_LINK: u64 = 2;

    /// Words that a name of so many bytes takes up, filled up with zeros.
    pub const fn words(length: usize) -> usize {
        length.div_ceil(8)
    }

    /// It only spreads names: entries have them whole.
    pub fn hash(name: &[u64]) -> u64 {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let hash = name.iter().fold(0u64, |hash, word| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29));
        hash.wrapping_mul(FACTOR)
    }

    /// Which entry is the one of a name with this hash.
    pub fn place_of(hash: u64) -> usize {
        (hash >> 32) as usize % ENTRIES
    }

    const _: () = assert!(super::DIRECT_BASE + super::DIRECT_SIZE <= BASE && BASE + SIZE <= super::SLOTS_BASE);
}

/// Where the slots begin: most processes need one page table for the stub, the table, the board and their slots.
pub const SLOTS_BASE: u64 = 0x7000_0010_0000;
pub const SLOT_SIZE: u64 = 0x8_0000;
/// Threads that one address space can have.
pub const MAXIMUM_SLOTS: u64 = 16384;
/// Where the pipes and connections lie that a process shares ([`PipeRing`]), each place a stretch of [`pipes::PLACE`] bytes.
pub const PIPES_BASE: u64 = 0x7010_0000_0000;

/// Parts of files that a process reads by itself (the stub's `windows.rs`).
pub mod windows {
    pub const BASE: u64 = 0x7008_0000_0000;
    pub const SIZE: u64 = 16 << 20;
    pub const PLACES: usize = 8;
    /// As [`super::DirectEntry::window_life`]: nobody on the host can make the file shorter.
    pub const FOR_GOOD: u64 = u64::MAX >> 2;
    /// Longer reads are calls of the host's: what they cost is the copy.
    pub const MOST: u64 = 16 << 10;
}
/// The guest may map nothing between STUB_BASE and here.
pub const RESERVED_END: u64 = 0x7020_0000_0000;

/// Offsets within a slot: the channel (shared with the sentry), a gap, the handler's stack, the thread block (both private). The
/// block and the stack's first frames share a page: each page that a process writes to is copied after a fork.
pub const CHANNEL_OFFSET: u64 = 0;
pub const CHANNEL_SIZE: u64 = SHELF_OFFSET + shelf::SIZE as u64;
/// Where in a channel its [`shelf`] begins: behind a [`ChannelLayout`].
pub const SHELF_OFFSET: u64 = 0x7000;
pub const STACK_OFFSET: u64 = 0x7_7000;
pub const BLOCK_SIZE: u64 = 0x900;
pub const BLOCK_OFFSET: u64 = SLOT_SIZE - BLOCK_SIZE;
/// Below the block: what a thread that is parked needs of a stack.
pub const PARKED_STACK_SIZE: u64 = 0x200;
pub const STACK_SIZE: u64 = BLOCK_OFFSET - PARKED_STACK_SIZE - STACK_OFFSET;

/// The stub's descriptor for its socket to the sentry, before it becomes an application.
pub const ZYGOTE_SOCKET: i32 = 3;
/// The zygote's descriptor for the [`board`], which it maps before all else.
pub const ZYGOTE_BOARD: i32 = 4;

/// First argument of the doorbell, a getppid(2) that ignores its arguments; the stub answers the guest's own getppid.
pub const DOORBELL_MAGIC: u64 = 0x5a65_6b5f_524f_434b;
/// Second argument: a request lies in the channel. The third is the CPU that rings, and one; 0: not known.
pub const DOORBELL_REQUEST: u64 = 1;
/// Second argument: a new thread presents its token (third and fourth); returns the descriptor of its channel.
pub const DOORBELL_ENROL: u64 = 2;
/// Second argument: a process that was made without a channel presents its token (third and fourth) with its first request, a
/// [`First`] at the fifth; returns the descriptor of its channel, where the reply lies.
pub const DOORBELL_FIRST: u64 = 3;
/// In its sixth argument, with the status: that is all, the process ends (exit_group(2)). The fifth is when it began, by the
/// processor's clock.
pub const FIRST_ENDS: u64 = 1 << 63;
/// The host's clone(2) of a process rings, too. What it returns, as an error, where the reply lies in the channel: no process has been made.
pub const FORK_ANSWERED: i64 = -4000;

/// Host signal that makes a thread enter the sentry (SIGSTKFLT, which nothing sends).
pub const KICK_SIGNAL: i32 = 16;

/// What a request is about.
pub mod request {
    /// `number` and `arguments`: a system call.
    pub const SYSCALL: u32 = 1;
    /// Beside SYSCALL: many calls of the thread have trapped since it last said so.
    pub const OFTEN_TRAPPED: u32 = 0x40;
    /// `number` and `arguments`, of which nothing is left to do: a read or write that was made in a shared pipe which somebody in
    /// the sentry watches ([`super::pipes::WATCHED`]).
    pub const CHANGED: u32 = 10;
    /// The thread was kicked. `status`: 0 in its own code; else the error that its interrupted native call stands for.
    pub const KICKED: u32 = 2;
    /// A hardware fault: `fault_*`.
    pub const FAULT: u32 = 3;
    /// The native calls of the last reply are done: `status` is the result.
    pub const NATIVE_DONE: u32 = 4;
    /// rt_sigreturn: registers are restored; `arguments`: mask, then base, flags and size of the alternate stack.
    pub const SIGNAL_RETURN: u32 = 5;
    /// A pool process waits to become a program.
    pub const IDLE: u32 = 6;
    /// The frame that was asked for could not be written to the guest's stack.
    pub const FRAME_FAILED: u32 = 7;
    /// A traced thread is about to make the call in `number` and `arguments` (ptrace(2)).
    pub const CALL_BEGINS: u32 = 8;
    /// It has made the call, and the sentry has not been asked on the way out.
    pub const CALL_ENDS: u32 = 9;
    /// A traced thread is about to make one step, of which its tracer watches memory that is read ([`super::Shown`]).
    pub const STEPS: u32 = 11;
}

/// What a reply asks for.
pub mod action {
    /// rax = `value`, go on.
    pub const RETURN: u32 = 1;
    /// Make the call again.
    pub const RESTART: u32 = 2;
    /// Go on as it was.
    pub const AS_IS: u32 = 3;
    /// Build a signal frame (`frame`), resuming as `resume` says.
    pub const HANDLER: u32 = 4;
    /// Carry out `operations`; then go on with the last result, or with NATIVE_DONE if `then` is set.
    pub const NATIVE: u32 = 5;
    /// A pool process: carry out `operations`, and start at `entry` with `stack` if none failed, else end. `value`: the
    /// guest's id of the thread.
    pub const RUN: u32 = 6;
    /// Make a thread or process (`clone`). If that fails, or `then` is set, go on with NATIVE_DONE, else with the child's id.
    pub const CLONE: u32 = 7;
    /// End this thread.
    pub const EXIT_THREAD: u32 = 8;
    /// End this process.
    pub const EXIT_PROCESS: u32 = 9;
    /// Ring for the same request: what it needs can be done for a thread that waits in the doorbell only.
    pub const RING: u32 = 10;
    /// This thread's program has ended it: wait, without running any of the guest's code, until another thread makes a new
    /// one of it.
    pub const PARK: u32 = 11;
    /// Resume as `resume` says (by the call `entry`, unless that is 0), and ask again (KICKED) with all registers: somebody who
    /// traces the thread is to see them.
    pub const SHOW: u32 = 12;
}

/// When a thread asks again behind native operations.
pub mod then {
    pub const NEVER: u32 = 0;
    pub const ALWAYS: u32 = 1;
    pub const AFTER_AN_ERROR: u32 = 2;
}

/// Kinds of [`Operation`].
pub mod operation {
    /// A host call; an error ends the list (but for ALWAYS ones).
    pub const CALL: u64 = 1;
    /// A host call that is made in any case, its result ignored (closing an injected descriptor).
    pub const ALWAYS: u64 = 2;
    /// Zero `arguments[1]` bytes at `arguments[0]`.
    pub const ZERO: u64 = 3;
    /// No call: the result is `arguments[0]`.
    pub const VALUE: u64 = 4;
    /// Map the table of direct descriptors from descriptor `arguments[0]`, which is closed then.
    pub const DIRECT_TABLE: u64 = 5;
    /// A host call whose first argument counts from the last CALL's result; its own result is passed over. Not made after
    /// an error.
    pub const OVER_LAST: u64 = 6;
    /// Map a shared pipe or connection: its descriptor, which is closed then; its place; its number; the guest's descriptors by
    /// which this process reads and writes its first ring, or [`super::pipes::NONE`]; of [`super::pipes::how`].
    pub const PIPE: u64 = 7;
    /// No call: the program is about to make an mmap(2) with these `arguments`, the first of which counts from the last CALL's
    /// result, and what is before this in the list has done so already. Nothing is said where an OVER_LAST call has failed.
    pub const EXPECT: u64 = 8;
    /// Copy `arguments[1]` bytes from the channel's area to `arguments[0]`; an error ends the list.
    pub const COPY: u64 = 9;
    /// Added to a kind: the descriptor that the ring has returned is an argument, which one is said above [`ARGUMENT`].
    pub const INJECTED: u64 = 1 << 8;
    pub const ARGUMENT: u32 = 16;
    pub const KIND: u64 = 0xff;
}

/// What the stub may do itself with one guest descriptor. Only the sentry writes it; zero: nothing.
#[repr(C)]
pub struct DirectEntry {
    /// The host's descriptor, with the rights of [`direct`] above it.
    pub word: core::sync::atomic::AtomicU64,
    /// Writes that end beyond this position are the sentry's.
    pub write_end: core::sync::atomic::AtomicU64,
    /// Reads that end up to this position may be made in a mapping of the file: it is lowered before anybody in the sandbox makes
    /// the file shorter.
    pub window_end: core::sync::atomic::AtomicU64,
    /// For so many ticks of the processor's clock the host need not be asked whether it has made the file shorter. 0: there is to be
    /// no mapping.
    pub window_life: core::sync::atomic::AtomicU64,
}

/// Bits of [`DirectEntry::word`].
pub mod direct {
    pub const DESCRIPTOR: u64 = 0xffff_ffff;
    /// The entry is in use: lseek(2) may be made.
    pub const VALID: u64 = 1 << 32;
    pub const READ: u64 = 1 << 33;
    pub const WRITE: u64 = 1 << 34;
    /// With O_APPEND: a write begins at the file's end.
    pub const APPEND: u64 = 1 << 35;
    /// There is nothing to read, and what is written is gone (null(4)): no descriptor, and nothing to ask the host for.
    pub const NULL: u64 = 1 << 36;
    /// As [`super::DirectEntry::write_end`]: no limit.
    pub const NO_END: u64 = u64::MAX;
}

/// Where an open file stands, while that is lent to the process that uses it: a word that both sides change by
/// compare-and-exchange. The host's own offset says nothing meanwhile.
pub mod position {
    /// It is the position. Only the sentry sets and clears this.
    pub const LENT: u64 = 1 << 63;
    /// The sentry takes it back, and the host's offset is not what it was there yet: calls that move it are the sentry's.
    pub const TAKEN: u64 = 1 << 62;
    pub const POSITION: u64 = NUMBER - 1;
    /// What is between is moved on with each change, so that no two words are the same.
    const NUMBER: u64 = 1 << 41;

    /// The word that comes behind `word`, at `position`.
    pub const fn moved(word: u64, position: u64) -> u64 {
        LENT | ((word & !LENT) + NUMBER) & !(LENT | TAKEN | POSITION) | position
    }

    /// How many changes there have been from one word to another.
    pub const fn changes(from: u64, to: u64) -> u64 {
        (to.wrapping_sub(from) & !(LENT | TAKEN)) / NUMBER
    }
}

/// The cache line that a request and its reply travel in, the reply in the request's place: moving one line each way is
/// what a call costs at the least. What it has no room for lies in the rest of the channel.
#[repr(C, align(64))]
pub struct Line {
    /// See [`line_state`]; written last, and read first.
    pub state: u64,
    pub words: [u64; LINE_WORDS],
}

pub const LINE_WORDS: usize = 7;
pub const LINE_SIZE: u64 = core::mem::size_of::<Line>() as u64;

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq)]
pub enum Phase {
    Request = 1,
    Reply = 2,
}

/// [`Line::state`] of a request, or of its reply.
pub const fn line_state(sequence: u32, phase: Phase) -> u64 {
    sequence as u64 | (phase as u64) << 32
}

/// What the sentry says about spinning for a channel; a line of its own, which hardly ever changes.
#[repr(C, align(64))]
pub struct Watch {
    /// 0, or one more than the CPU on which a thread of the sentry watches this channel: a request is answered without
    /// ringing, if its maker runs on another CPU.
    pub cpu: u32,
}

/// What a stub answers by itself (see the stub's `local.rs`). Only the sentry writes it, but for `mask`, `robust_list`,
/// `clear_child_tid` and `reset`; a program that writes here deceives itself alone.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub struct Local {
    /// 0: every call is the sentry's.
    pub enabled: u32,
    /// Not 0: the thread is traced (ptrace(2)), and says before and behind each call where its registers are.
    pub traced: u32,
    pub identity: Identity,
    /// The thread's signal mask. Its stub writes here when it serves rt_sigprocmask(2) itself; the sentry while the
    /// thread is in a call.
    pub mask: u64,
    /// At least the signals that are pending for the thread and that it does not know of: whoever unblocks one of them
    /// asks.
    pub pending: u64,
    /// At least the signals whose disposition is not the one that a process begins with.
    pub actions: u64,
    /// What the thread has told set_robust_list(2).
    pub robust_list: u64,
    /// What it has told set_tid_address(2), or clone(2).
    pub clear_child_tid: u64,
    /// Not 0: the heap's end, which nobody but the thread can move. Its stub does so by itself, and says by [`HEAP_MOVED`] that
    /// it has; and where the heap begins.
    pub heap_end: u64,
    pub heap_start: u64,
    /// Not 0: nobody but the thread has its dispositions.
    pub may_reset: u32,
    /// Not 0: what the [`board`] says holds for the thread.
    pub reads_board: u32,
    /// Signals whose disposition, which is the default, was made so once more, with SA_RESTORER and `reset_restorer`. The
    /// sentry takes it over before it matters.
    pub reset: u64,
    pub reset_restorer: u64,
}

/// In [`Local::heap_end`], beside the address.
pub const HEAP_MOVED: u64 = 1 << 63;

/// The limits of a thread's process (getrlimit(2)), for its stub to tell. Only the sentry writes here.
#[repr(C)]
pub struct Limits {
    /// Odd while they change.
    pub version: u64,
    /// By their numbers, each with its maximum.
    pub limits: [[u64; 2]; LIMITS],
}

/// RLIM_NLIMITS.
pub const LIMITS: usize = 16;

/// Who a thread is, as the id calls tell. [`Identity::UNKNOWN`]: the sentry is to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Identity {
    pub pid: u32,
    pub tid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub uid: u32,
    pub effective_uid: u32,
    pub gid: u32,
    pub effective_gid: u32,
}

impl Identity {
    pub const UNKNOWN: u32 = u32::MAX;
}

/// How long a stub waits for an answer before it rings after all, in ticks of the processor's clock: tens of microseconds.
pub const SPIN_TICKS: u64 = 100_000;

/// What a stub asks. It travels in a [`Line`] and, of what only some requests are about, in [`RequestDetail`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Request {
    pub kind: u32,
    /// Counts up; a request that rings again with the same number gets the same reply.
    pub sequence: u32,
    pub number: u64,
    pub arguments: [u64; 6],
    /// Bytes of the channel's area that hold records ([`marshal`]) of the guest's memory, as the call's arguments name it.
    pub marshalled: u32,
    /// Its maker rings for it in any case: who watches the channel leaves it to the ring.
    pub rings: bool,
    pub detail: RequestDetail,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RequestDetail {
    pub instruction_pointer: u64,
    pub stack_pointer: u64,
    pub status: i64,
    pub fault_signal: i32,
    pub fault_code: i32,
    pub fault_address: u64,
    /// Where its [`Shown`] is; 0: nobody has asked for it, or it has no frame.
    pub shown: u64,
}

/// What a traced thread shows, in its own memory. The sentry reads it, and writes it while the thread waits for an answer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shown {
    /// Where its frame is: a `ucontext_t`.
    pub context: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// Which debug registers have been hit, as DR6 says it.
    pub hits: u64,
    /// The sentry writes these into each request's: the debug registers that the tracer has set, DR0 to DR3 and DR7, and, for STEPS, which
    /// of them the next step reads or writes.
    pub watched: [u64; 4],
    pub control: u64,
    pub touched: u64,
}

impl Request {
    /// As the line has it, but for the state.
    #[inline(always)]
    pub fn to_words(&self) -> [u64; LINE_WORDS] {
        let [a, b, c, d, e, f] = self.arguments;
        let flags = (self.kind as u64 & 0x7f) | (self.rings as u64) << 7 | (self.marshalled as u64 & 0xff_ffff) << 8;
        [flags | self.number << 32, a, b, c, d, e, f]
    }

    /// From a line; without its detail.
    #[inline(always)]
    pub fn from_line(state: u64, words: [u64; LINE_WORDS]) -> Request {
        let [head, a, b, c, d, e, f] = words;
        Request {
            kind: head as u32 & 0x7f,
            rings: head & 1 << 7 != 0,
            sequence: state as u32,
            number: head >> 32,
            arguments: [a, b, c, d, e, f],
            marshalled: head as u32 >> 8,
            ..Request::default()
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SignalStack {
    pub base: u64,
    pub flags: i32,
    pub _padding: u32,
    pub size: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Frame {
    pub handler: u64,
    pub restorer: u64,
    /// uc_sigmask.
    pub mask: u64,
    /// Top of the stack to use; 0: the present one.
    pub stack_top: u64,
    pub saved_stack: SignalStack,
    pub signal_info: [u64; 16],
    /// 1: more handlers wait; ask again (KICKED) when the frame is built.
    pub more: u64,
}

/// What a new process begins with: written by the sentry into its maker's [thread block](super) before it is made, so that it finds it in its
/// own.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Certificate {
    pub order: CloneOrder,
    /// As [`ChannelLayout::beginning`].
    pub beginning: u32,
    /// The host descriptors that it may have copies of are below this number.
    pub descriptors: u32,
    /// Not 0: its maker says how it went (NATIVE_DONE), and goes on as it is told then.
    pub reports: u64,
    _padding: [u64; 2],
    pub local: Local,
}

impl Certificate {
    pub fn new(order: CloneOrder, beginning: u32, descriptors: u32, reports: bool, local: Local) -> Certificate {
        Certificate { order, beginning, descriptors, reports: reports as u64, _padding: [0; 2], local }
    }
}

/// Where the certificate lies in a thread's block, and where in that the token is.
pub const CERTIFICATE_OFFSET: u64 = 0x800;
/// Where the block says that the thread is that of a process which has not presented itself, as this number.
pub const WAY_OFFSET: u64 = 0xc8;
pub const WAY_FIRST: u64 = 2;
pub const CERTIFICATE_TOKEN: u64 = core::mem::offset_of!(CloneOrder, token) as u64;
const _: () = assert!(core::mem::offset_of!(Certificate, order) == 0 && core::mem::offset_of!(Certificate, local) == 128);

/// The first request of a process without a channel; what it has marshalled lies where the channel's area would.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct First {
    pub state: u64,
    pub words: [u64; LINE_WORDS],
    pub detail: RequestDetail,
    /// When the process began, by the processor's clock.
    pub began: u64,
    pub _padding: u64,
    pub local: Local,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CloneOrder {
    /// Exactly one of [`CLONE_FLAGS`].
    pub flags: u64,
    /// The child's slot (only with CLONE_VM).
    pub slot: u64,
    pub token: [u64; 2],
    /// The child's stack pointer; 0: as the parent's.
    pub stack: u64,
    /// The child's thread pointer; 0: as the parent's.
    pub tls: u64,
    /// Where the host clears a word at the child's exit; 0: nowhere.
    pub clear_child_tid: u64,
    /// Where the child stores its id; 0: nowhere.
    pub set_child_tid: u64,
    /// Where its maker stores its id; 0: nowhere.
    pub set_parent_tid: u64,
    pub child_tid: u64,
    /// 1: no host clone is to be made, the child goes on in the parked thread in `slot`.
    pub parked: u64,
    /// Not 0: the sentry has not been asked (never in an order of the sentry's).
    pub unasked: u64,
}

/// A thread that may begin and end without the sentry's being asked: in the channel of one that is parked (`births.rs`).
#[repr(C)]
pub struct Birth {
    /// One of [`birth`]'s, and how many have begun so above [`birth::COUNT`].
    pub word: u32,
    /// The slot of the thread that may make it. The sentry writes this and `ids` before `word`.
    pub maker: u32,
    /// When the last one began, by the processor's clock. Its maker writes this before `word`.
    pub born: u64,
    /// The thread's ids, the first one's first.
    pub ids: [u32; birth::MOST_IDS],
}

/// What becomes of an offer ([`Birth::word`]). The stub and the sentry change it by exchanging what they have seen, so that it is
/// decided once whether a thread has begun or ended by itself.
pub mod birth {
    /// There is none (any more): who makes a thread, or ends, asks.
    pub const NONE: u32 = 0;
    /// The thread is on its way to be parked.
    pub const ENDED: u32 = 1;
    pub const OFFERED: u32 = 2;
    /// Its maker lays down what it begins with.
    pub const FILLING: u32 = 3;
    /// It is there.
    pub const BEGUN: u32 = 4;
    pub const STATE: u32 = 0xff;
    pub const COUNT: u32 = 8;
    pub const MOST_IDS: usize = 16;
    /// Offers that a process can have.
    pub const MOST: usize = 4;
}

/// [`ChannelLayout::beginning`]: the new thread in this channel asks first (KICKED) what it is to do.
pub const BEGIN_ASKING: u32 = 0;
/// The same: it goes on with its own code at once.
pub const BEGIN_AT_ONCE: u32 = 1;

/// Host clone(2) flags: a thread; a process that shares memory (vfork); a process. Nothing else passes the filter.
pub const CLONE_FLAGS: [u64; 3] = [CLONE_THREAD, CLONE_VFORK, CLONE_PROCESS];
/// VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|SETTLS|CHILD_CLEARTID
pub const CLONE_THREAD: u64 = 0x2d_0f00;
/// VM|PARENT|SETTLS|CHILD_CLEARTID|SIGCHLD
pub const CLONE_VFORK: u64 = 0x28_8111;
/// PARENT|SIGCHLD
pub const CLONE_PROCESS: u64 = 0x8011;

/// What the sentry answers. It travels in a [`Line`]; a handler's frame, a clone's order and native operations lie in the
/// channel beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Reply {
    pub action: u32,
    /// With HANDLER: RETURN, RESTART or AS_IS, the state that the frame saves.
    pub resume: u32,
    pub value: i64,
    /// How many of the channel's operations are to be carried out.
    pub operations: u32,
    /// With RETURN: bytes of the channel's area that hold records to be written to the guest's memory first. With RUN: not 0 where
    /// something is lent ([`loan`]).
    pub results: u32,
    /// With NATIVE: whether to ask again with NATIVE_DONE ([`then`]).
    pub then: u32,
    pub entry: u64,
    pub stack: u64,
}

impl Reply {
    /// As the line has it, but for the state.
    #[inline(always)]
    pub fn to_words(&self) -> [u64; 4] {
        let head = (self.action & 0xff | (self.resume & 0xff) << 8 | (self.then & 0xff) << 16) as u64;
        let counts = (self.operations as u64 & 0xffff) << 32 | (self.results as u64) << 48;
        [head | counts, self.value as u64, self.entry, self.stack]
    }

    #[inline(always)]
    pub fn from_words(words: [u64; 4]) -> Reply {
        let [head, value, entry, stack] = words;
        Reply {
            action: head as u32 & 0xff,
            resume: head as u32 >> 8 & 0xff,
            then: head as u32 >> 16 & 0xff,
            operations: (head >> 32) as u32 & 0xffff,
            results: (head >> 48) as u32,
            value: value as i64,
            entry,
            stack,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Operation {
    pub kind: u64,
    pub number: u64,
    pub arguments: [u64; 6],
}

/// How many mappings one reply can say to expect ([`operation::EXPECT`]).
pub const MAXIMUM_EXPECTED: usize = 4;

/// How many operations one reply can have.
pub const MAXIMUM_OPERATIONS: usize = 120;

/// The records of marshalled memory in a channel's area: two words each, then the bytes of those that have any, filled up
/// to whole words.
pub mod marshal {
    /// Bytes of the area. It begins behind the line, so that the little that most calls have comes with it.
    pub const AREA: usize = 7040;
    /// The most bytes of one record: larger data is read and written where it is.
    pub const LIMIT: usize = 4096;

    /// Flags of a record's second word, above its length.
    /// The bytes follow, as the guest's memory had them when the call began.
    pub const BYTES: u64 = 1 << 32;
    /// The memory could be written then: results for it can go this way.
    pub const WRITABLE: u64 = 1 << 33;
    /// No memory, but a call that has been put off ([`super::deferred`]).
    pub const DEFERRED: u64 = 1 << 34;
    pub const LENGTH: u64 = 0xffff_ffff;

    /// What a record with so many bytes takes up.
    pub const fn size(bytes: usize) -> usize {
        HEADER + bytes.next_multiple_of(8)
    }
    /// Address; length and flags.
    pub const HEADER: usize = 16;
}

/// Calls of epoll_ctl(2) that the stub has answered itself travel with the next request, as records of three words: the
/// epoll and the operation above it, the descriptor and the events above it, the data.
pub mod deferred {
    /// In [`super::Reply::entry`] with RETURN: the stub may put off the next such call on this epoll and descriptor.
    pub const GRANTED: u64 = 1;
    /// How many can wait.
    pub const LIMIT: usize = 16;
}

/// A file that the sentry lends its thread until that makes its next request: the stub answers calls on it from what lies
/// in the area, and the sentry takes note of what was done behind it (ADR 26). A line of its own.
#[repr(C, align(64))]
pub struct Loan {
    /// See [`loan`]; both sides change it by compare-and-exchange only.
    pub word: u64,
    /// The processor's time from which on nothing is said of the file any more.
    pub until: u64,
    /// The guest's descriptor.
    pub descriptor: u32,
    /// So many bytes of the file, from its start, lie in the area: from `start` on. Of a directory: all entries from where it
    /// stands on, as getdents64(2) gives them.
    pub data: u32,
    /// The file's; of a directory, what all of these entries take up.
    pub size: u64,
    pub start: u32,
    /// Of [`loan`].
    pub flags: u32,
    /// What fcntl(2) tells: F_GETFL, F_GETFD.
    pub status_flags: u32,
    pub descriptor_flags: u32,
    /// Where names that were looked at ahead begin in the area ([`loan::NAME`]), and how many there are.
    pub names: u32,
    pub names_count: u32,
    /// Where in the area it says how it was opened ([`loan::OPENED`]); 0: nowhere.
    pub opened: u16,
    /// The same of what is known of a name ([`loan::KNOWN`]), and of a directory's names ([`loan::filled`]).
    pub known: u16,
    pub filled: u16,
}

/// What lies ready in streams that epoll_wait(2) has told of, lent to who reads it (ADR 44).
#[repr(C, align(64))]
pub struct Streams {
    pub streams: [Stream; streams::MOST],
    pub data: [u64; streams::DATA / 8],
}

/// One of them: all that is there.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Stream {
    /// See [`streams`]; both sides change it by compare-and-exchange only.
    pub word: u64,
    /// The guest's descriptor.
    pub descriptor: u32,
    /// Where in the data.
    pub start: u32,
    pub length: u32,
    pub _padding: u32,
}

pub mod streams {
    /// In [`super::Reply::entry`] with RETURN: there are some.
    pub const LENT: u64 = 3;
    /// In the word, which is 0 where there is none: it stands.
    pub const VALID: u64 = 1 << 63;
    /// Below this bit, its number, so that an old one is never taken for it.
    pub const NUMBER: u32 = 32;
    pub const NUMBER_MASK: u64 = 0x7fff_ffff << NUMBER;
    /// The lowest bits: how much has been read.
    pub const READ: u64 = 0xffff_ffff;
    /// How many at once.
    pub const MOST: usize = 48;
    /// Bytes of all together, and of one at most.
    pub const DATA: usize = 2304;
    pub const LONGEST: usize = 2048;
}

/// Eventfds and pipes that only this thread uses, lent to it: it reads and writes them here (ADR 45).
#[repr(C, align(64))]
pub struct Objects {
    pub objects: [Object; objects::MOST],
    /// What is in each pipe, at its positions modulo [`objects::DATA`].
    pub data: [[u64; objects::DATA / 8]; objects::MOST],
}

/// One of them.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Object {
    /// See [`objects`]; both sides change it by compare-and-exchange only.
    pub word: u64,
    /// The guest's descriptors for reading and for writing; of an eventfd one and the same.
    pub reader: u32,
    pub writer: u32,
    /// Of [`objects`].
    pub kind: u32,
    pub _padding: u32,
}

pub mod objects {
    /// In [`super::Reply::entry`] with RETURN: there are some.
    pub const LENT: u64 = 4;
    pub const EVENTFD: u32 = 0;
    /// With EFD_SEMAPHORE.
    pub const SEMAPHORE: u32 = 1;
    pub const PIPE: u32 = 2;
    /// In the word, which is 0 where there is none: it stands.
    pub const VALID: u64 = 1 << 63;
    /// Below this bit: how many calls it has answered, up to three.
    pub const CALL: u64 = 1 << 61;
    pub const CALLS: u64 = 3 * CALL;
    /// Below these bits, its number, so that an old one is never taken for it.
    pub const NUMBER: u32 = 48;
    pub const NUMBER_MASK: u64 = 0x1fff << NUMBER;
    /// The lowest bits: an eventfd's counter; of a pipe the positions up to which it has been read and written.
    pub const VALUE: u64 = (1 << NUMBER) - 1;
    pub const WRITTEN: u64 = 0xff_ffff;
    pub const READ: u32 = 24;
    /// How many at once.
    pub const MOST: usize = 4;
    /// The most bytes that a lent pipe has in it: less than a page, so that it could have as many if it were not lent.
    pub const DATA: usize = 1024;

    /// The word after one more call that leaves it with `value`.
    pub const fn after_call(word: u64, value: u64) -> u64 {
        let calls = if word & CALLS == CALLS { CALLS } else { (word & CALLS) + CALL };
        word & !(CALLS | VALUE) | calls | value & VALUE
    }
}

/// What of an interest list lies in shared pipes of the thread's process: it may answer epoll_wait(2) from what these say (ADR 53),
/// and change them (ADR 59).
#[repr(C, align(64))]
pub struct Events {
    /// See [`events`].
    pub word: u64,
    /// Which of the interests the thread has told of since they were lent, by bits; this and the next two only the thread changes.
    pub told: u64,
    /// Which it has changed.
    pub changed: u64,
    /// On which side each one lies, but for the one that the word names.
    pub sides: u64,
    /// The guest's descriptor of the list.
    pub epoll: u32,
    pub count: u32,
    /// Not 0: they may be changed.
    pub may_change: u64,
    /// Each lies on one side. A change is written on the other one.
    pub interests: [[Interest; events::MOST]; events::SIDES],
}

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interest {
    pub descriptor: u32,
    /// As they were asked for (epoll_ctl(2)); [`events::NOT_LISTED`].
    pub events: u32,
    pub data: u64,
}

pub mod events {
    /// EPOLLET, in what is waited for.
    pub const EDGES: u32 = 1 << 31;
    /// In the word, which is 0 where there is none: it stands. The lowest bits have its number, so that an old one is never taken for
    /// it.
    pub const VALID: u64 = 1 << 63;
    pub const NUMBER_MASK: u64 = 0xffff_ffff;
    /// Which of the interests was changed last, and on which side it lies: so a change counts by one exchange of the word, or not.
    pub const LAST: u32 = 32;
    pub const LAST_MASK: u64 = (MOST as u64 - 1) << LAST;
    pub const LAST_SIDE: u64 = 1 << 40;
    /// How many at once.
    pub const MOST: usize = 64;
    pub const SIDES: usize = 2;
    /// Instead of what is waited for: it is not in the list any more. Whoever is in it waits for errors at least.
    pub const NOT_LISTED: u32 = 0;

    /// The word once the interest at `index` lies on `side`.
    pub const fn word_after(word: u64, index: usize, side: usize) -> u64 {
        let side = if side == 0 { 0 } else { LAST_SIDE };
        word & !(LAST_MASK | LAST_SIDE) | ((index as u64) << LAST) & LAST_MASK | side
    }

    /// On which side each of them lies, by bits.
    pub const fn sides(word: u64, others: u64) -> u64 {
        let last = 1 << ((word & LAST_MASK) >> LAST);
        if word & LAST_SIDE == 0 {
            others & !last
        } else {
            others | last
        }
    }

    const _: () = assert!(MOST == u64::BITS as usize);
}

/// A pipe that one process reads and one writes (or the same), in memory that these and the sentry share (ADR 48); or one
/// direction of a connection (ADR 52). Its bytes lie from the next page on, [`pipes::DATA`] of them.
#[repr(C, align(64))]
pub struct PipeRing {
    /// See [`pipes`]; changed by compare-and-exchange only, or by atomic operations on single bits.
    pub word: u64,
    /// One more than the CPU on which each side ran last; 0: not known.
    pub reader_cpu: u32,
    pub writer_cpu: u32,
    /// How many bytes have been put in here since it was made. Counted before they can be seen.
    pub written: u64,
}

pub mod pipes {
    /// How many places a process can have: each is a pipe, or a connection.
    pub const MOST: usize = 64;
    /// Descriptors from here on are not looked for.
    pub const DESCRIPTORS: usize = 1024;
    /// What a pipe holds: as much as one that is not shared.
    pub const DATA: usize = 0x1_0000;
    pub const DATA_OFFSET: usize = 0x1000;
    pub const SIZE: usize = DATA_OFFSET + DATA;
    /// From a connection's first ring to its second, which goes the other way.
    pub const STRIDE: usize = 0x2_0000;
    pub const RINGS: usize = 2;
    pub const PLACE: usize = RINGS * STRIDE;
    /// In the place of a descriptor: there is none.
    pub const NONE: u64 = u64::MAX;

    /// In the operation's last argument.
    pub mod how {
        pub const MAY_SPIN: u64 = 1;
        /// It has two rings; who reads one writes the other.
        pub const CONNECTION: u64 = 2;
    }

    // The word. Its lower half, which is what threads wait on, has all that they may wait for.
    /// How many bytes are in it.
    pub const FILL: u64 = 0x1_ffff;
    /// It is lent: reads and writes may be made here.
    pub const VALID: u64 = 1 << 17;
    /// A thread copies bytes out, or in.
    pub const READING: u64 = 1 << 18;
    pub const WRITING: u64 = 1 << 19;
    /// A thread sleeps until there are bytes, or room.
    pub const READER_WAITS: u64 = 1 << 20;
    pub const WRITER_WAITS: u64 = 1 << 21;
    pub const WAITS: u64 = READER_WAITS | WRITER_WAITS;
    /// How many calls were answered, up to three.
    pub const CALL: u64 = 1 << 22;
    pub const CALLS: u64 = 3 * CALL;
    /// O_NONBLOCK: who would have to wait asks the sentry.
    pub const READER_NONBLOCKING: u64 = 1 << 24;
    pub const WRITER_NONBLOCKING: u64 = 1 << 25;
    /// Somebody in the sentry is to be told, once, when there are more bytes, or room again.
    pub const READER_WATCHED: u64 = 1 << 26;
    pub const WRITER_WATCHED: u64 = 1 << 27;
    pub const WATCHED: u64 = READER_WATCHED | WRITER_WATCHED;
    /// Who reads is told of edges (EPOLLET), and sees them by himself.
    pub const SEES_EDGES: u64 = 1 << 28;
    /// Bytes have come since he was told.
    pub const ARRIVED: u64 = 1 << 29;
    /// A pipe with less room than this is full for who watches it: none of its pages is free.
    pub const ROOM: u64 = 0x1000;
    /// Above the lower half: where the first byte is.
    pub const START: u32 = 32;
    pub const START_MASK: u64 = 0xffff << START;
    /// Above that, the number under which the processes have been told of it.
    pub const NUMBER: u32 = 48;
    pub const NUMBER_MASK: u64 = 0xffff << NUMBER;

    const _: () = assert!(SIZE <= STRIDE);
    const _: () = assert!((DATA as u64 - 1) << START == START_MASK);
}

pub mod loan {
    /// In [`super::Reply::entry`] with RETURN, or NATIVE where nothing is to be asked behind it: there is one.
    pub const LENT: u64 = 2;
    /// What says which of these it is.
    pub const ENTRY: u64 = 0xff;
    /// Beside LENT: it is over once the thread has read, or written, a direct descriptor by itself (the rights of
    /// [`super::direct`]).
    pub const UNTIL_READ: u64 = super::direct::READ;
    pub const UNTIL_WRITE: u64 = super::direct::WRITE;
    /// In the word, which is 0 where there is none: it stands.
    pub const VALID: u64 = 1 << 63;
    /// The descriptor has been closed.
    pub const CLOSED: u64 = 1 << 62;
    /// Data has been read.
    pub const READ: u64 = 1 << 61;
    /// The directory whose files were opened ahead has been closed ([`super::shelf::Opened`]).
    pub const LEFT: u64 = 1 << 60;
    /// Something that is known of a name has been asked for.
    pub const REPEATED: u64 = 1 << 59;
    /// One of the names that were looked at ahead has been asked about.
    pub const SHOWN: u64 = 1 << 58;
    /// Which file the descriptor is: 0 is the one that was lent, the others are the shelf's ([`super::shelf::Ahead`]).
    pub const INDEX: u32 = 48;
    pub const INDEX_MASK: u64 = 0x3f << INDEX;
    /// Below these bits, its number, so that an old one is never taken for it.
    pub const NUMBER: u32 = 32;
    pub const NUMBER_MASK: u64 = 0xffff << NUMBER;
    /// The lowest bits: where the open file stands; of a directory, which of the entries that lie there are read.
    pub const POSITION: u64 = 0x7fff_ffff;
    /// The descriptor where no file is lent, only names.
    pub const NONE: u32 = u32::MAX;
    /// A name that was looked at ahead: its length, the directory's descriptor, both in one word; its `struct stat`; then its
    /// bytes as they are given to newfstatat(2) with AT_SYMLINK_NOFOLLOW, filled up to whole words. Of one that is not there the
    /// structure is all zeros; the word in it that has the mode, which nothing else has as 0, says so.
    pub const NAME: usize = 8 + STATUS;
    pub const MODE: usize = 3;
    pub const LONGEST_NAME: usize = 255;
    /// What a record takes up.
    pub const fn name_size(length: usize) -> usize {
        NAME + length.next_multiple_of(8)
    }
    /// By what it was opened: the name's length, and the directory's descriptor above it; the flags; then the name, filled
    /// up to whole words.
    pub const OPENED: usize = 16;
    /// What a call says of a name: the name's length, and the directory's descriptor above it; one of [`known`], and the error
    /// (0: none) above it; a `struct stat`, where it shows one; then the name, filled up to whole words.
    pub const KNOWN: usize = 16;
    pub mod known {
        /// access(2), or faccessat(2): its mode is in the bits below.
        pub const ACCESS: u32 = 8;
        /// stat(2), or newfstatat(2) without flags.
        pub const STATUS: u32 = 16;
        /// Beside them: reading changes what is shown.
        pub const SHOWS_READING: u32 = 32;
    }
    /// Which names of a directory are not there: the length of what stands before them, and the directory's descriptor above it; a bit for
    /// each name's hash, set where such a name is there; then what stands before them, filled up to whole words.
    pub mod filled {
        /// Of bits.
        pub const WORDS: usize = 64;

        /// Which of them a name has.
        pub fn bit(name: &[u8]) -> usize {
            let hash = name
                .iter()
                .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            (hash ^ hash >> 29) as usize % (WORDS * 64)
        }
    }
    /// In the flags: it is a directory.
    pub const DIRECTORY: u32 = 1;
    /// Reading changes what fstat(2) shows: its time of access, of the file that was lent to the one that lies in words of its
    /// `struct stat` that mean nothing.
    pub const SHOWS_READING: u32 = 2;
    /// Where in that structure, in words, both are: seconds and nanoseconds.
    pub const ACCESSED: usize = 9;
    pub const ACCESSED_THEN: usize = 15;
    /// A private mapping of it that is only read may be a copy of its data (ADR 40).
    pub const MAY_BE_COPIED: u32 = 4;
    /// It is open to be written: there is nothing to be read of it here.
    pub const WRITTEN: u32 = 8;
    /// All of it lies on the [`super::shelf`]: what is said to be in the area is there, and data can be behind that.
    pub const ON_SHELF: u32 = 16;
    /// The process has it direct, or others had: where it stands, and that it is closed, is not told here.
    pub const DIRECT: u32 = 32;
    /// The end of the area has a `struct stat` of the file.
    pub const STATUS: usize = 144;
    /// What there is room for before that.
    pub const DATA: usize = super::marshal::AREA - STATUS;
}

/// The channel's last part, where what is lent to a thread that uses many files lies (ADR 47): there is room for more, and
/// what lies there stays when the thread makes a request. Where it is not used it takes up no memory.
pub mod shelf {
    pub const SIZE: usize = 0x6_f000;
    /// The beginning is as the area is, but for data. Then comes what was opened ahead, an [`Opened`] and the [`Ahead`] of each.
    pub const OPENED: usize = super::marshal::AREA;
    /// From here on data lies, and all that belongs to files that were opened ahead.
    pub const DATA: usize = 0x2800;
    /// How many can be opened ahead.
    pub const MOST: usize = 60;

    /// What is said of all of them: how many there are, and how each is opened: by a name in `directory`, with `flags`.
    #[derive(Clone, Copy, Debug, Default)]
    #[repr(C)]
    pub struct Opened {
        pub count: u32,
        pub directory: u32,
        pub flags: u32,
        /// Of the following.
        pub how: u32,
        /// With [`BESIDE`]: the descriptor that they get.
        pub descriptor: u32,
        /// With [`BESIDE`], written by the stub when the first one is opened: where the directory stands, and [`LEFT_READ`].
        pub left_at: u32,
    }

    /// What was lent is the directory itself. It stays open when the first file is opened, which gets a descriptor of its own.
    pub const BESIDE: u32 = 1;
    /// The directory can be closed here.
    pub const CLOSES: u32 = 2;
    /// With [`BESIDE`]: what the directory is said to be is so still.
    pub const SHOWS: u32 = 4;
    /// In [`Opened::left_at`]: it was read.
    pub const LEFT_READ: u32 = 1 << 31;

    /// One of them. Its `struct stat` lies at `status`, then its name, filled up to whole words, then its data.
    #[derive(Clone, Copy, Debug, Default)]
    #[repr(C)]
    pub struct Ahead {
        pub size: u64,
        pub status: u32,
        pub name_length: u32,
        /// So much of it is there, from its start.
        pub data: u32,
        /// Of [`super::loan`].
        pub flags: u32,
    }

    impl Ahead {
        pub fn name(&self) -> usize {
            self.status as usize + super::loan::STATUS
        }
        pub fn start(&self) -> usize {
            self.name() + (self.name_length as usize).next_multiple_of(8)
        }
    }

    const _: () = assert!(OPENED % 8 == 0);
    const _: () = assert!(OPENED + size_of::<Opened>() + MOST * size_of::<Ahead>() <= DATA);
    const _: () = assert!(MOST < 64 && SIZE % 4096 == 0);
}

/// What lies in a channel.
#[repr(C)]
pub struct ChannelLayout {
    pub line: Line,
    pub area: [u64; marshal::AREA / 8],
    pub watch: Watch,
    pub loan: Loan,
    pub local: Local,
    pub limits: Limits,
    /// Written with every request, read for some.
    pub detail: RequestDetail,
    pub frame: Frame,
    pub clone: CloneOrder,
    /// Whose it is: what the thread has presented for it. Only the sentry writes it.
    pub token: [u64; 2],
    /// How the thread that gets this channel begins. Only the sentry writes it.
    pub beginning: u32,
    pub operations: [Operation; MAXIMUM_OPERATIONS],
    pub streams: Streams,
    pub objects: Objects,
    pub events: Events,
    pub birth: Birth,
}

const _: () = assert!(core::mem::offset_of!(ChannelLayout, line) == 0 && core::mem::size_of::<Line>() == 64);
const _: () =
    assert!(core::mem::offset_of!(ChannelLayout, area) == 64 && core::mem::offset_of!(ChannelLayout, watch) % 64 == 0);
const _: () = assert!(core::mem::size_of::<ChannelLayout>() <= SHELF_OFFSET as usize);

/// Messages on the zygote's socket (sequenced packets of native-endian words; the first is the kind).
pub mod zygote {
    /// Zygote to sentry: vDSO address, start and end of the instructions from which host calls may be made.
    pub const HELLO: u64 = 1;
    /// Sentry to zygote: listener flags, lengths of both filters (instructions), what processes have calls for (`NEEDS_`),
    /// then the filters.
    pub const FILTERS: u64 = 2;
    /// The host does not let programs set the bases of fs and gs.
    pub const NEEDS_ARCH_PRCTL: u64 = 1;
    /// Nothing else ends the processes when the sentry has ended.
    pub const NEEDS_DEATH_SIGNAL: u64 = 2;
    /// Sentry to zygote: make pool processes: how many; then for each its token (two words), and start and size of the
    /// stack that it maps for its program.
    pub const FORK: u64 = 3;
    /// Words for each process in there, and how many there can be.
    pub const FORK_WORDS: usize = 4;
    pub const MAXIMUM_FORKS: usize = 16;
    /// Pool process to sentry: its token; the listener comes with it.
    pub const POOL: u64 = 4;
    /// Pool process or zygote to sentry: what failed (stage), errno.
    pub const FAILED: u64 = 5;
    /// The longest message, in bytes.
    pub const MAXIMUM_MESSAGE: usize = 4096;
}
