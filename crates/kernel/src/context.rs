//! What a system call handler is given: who calls, its memory, and how to wait.

use crate::event::epoll::Item;
use crate::fs::file::{OpenFile, StatusFlags, Transfer};
use crate::fs::inode::Metadata;
use crate::ipc::pipe::PipeEnd;
use crate::marshal::Marshalled;
use crate::net::socket::SocketType;
use crate::net::SocketFile;
use crate::sync::Waiter;
use crate::task::{Process, Task};
use crate::{Errno, Kernel, Result};
use skerry_platform::channel::Channel;
use skerry_platform::layout::CloneOrder;
use skerry_platform::memory::GuestMemory;
use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The longest path, with its terminating zero (PATH_MAX, limits.h).
pub const PATH_MAX: usize = 4096;

/// How a handler waits so that others are served meanwhile. Implemented by the engine's workers.
pub trait Lead {
    /// The calling thread is about to block: someone else is to receive the next call.
    fn before_blocking(&self);

    /// Sleeps on `waiter`; false at the deadline. May return on another thread.
    fn sleep(&self, waiter: &Arc<Waiter>, deadline: Option<Instant>) -> bool {
        self.before_blocking();
        waiter.sleep(deadline)
    }
}

/// The calling thread receives nothing, and may block.
pub struct NoLead;

impl Lead for NoLead {
    fn before_blocking(&self) {}
}

/// One call of one task.
pub struct Context<'a> {
    pub task: &'a Arc<Task>,
    lead: &'a dyn Lead,
    /// Call number and argument registers, as the guest had them.
    pub call: Call,
    /// Where `call`'s instruction and stack pointer still are to be read from.
    channel: Option<&'a Channel>,
    /// Guest memory that came with the call and goes with its answer.
    marshalled: RefCell<Marshalled>,
    /// What is to happen beside the return of a value.
    pub(crate) after: After,
    /// The descriptor whose data was used, where its process may be given it to use by itself.
    pub(crate) direct_offer: Option<(i32, Arc<OpenFile>)>,
    /// The answer is that of a plain call, which can have operations for the stub with it.
    pub(crate) may_carry_operations: bool,
    /// What its being served means for files that are lent.
    pub(crate) watch: Option<crate::run::Watch>,
    /// The place that a name has led to: the directory's descriptor, the name (links at its end not followed, or none there).
    pub(crate) seen: Option<(i32, Vec<u8>, crate::fs::path::Path)>,
    /// What the call has said of a name.
    pub(crate) looked: Option<Looked>,
    /// The name that link(2) has given to a file, relative to what, and the directory that it leads to.
    pub(crate) linked: Option<(i32, Vec<u8>, crate::fs::path::Path)>,
    /// The descriptors that it has told of as readable, and what stands behind them.
    pub(crate) to_read: Vec<(i32, Weak<OpenFile>)>,
    /// The interest list that it has waited on, by which descriptor, and what it was told of.
    pub(crate) waited: Option<(i32, Arc<OpenFile>, Vec<Arc<Item>>)>,
    /// The descriptors by which the thread, and nobody else of late, reads and writes the eventfd or pipe that it has just used.
    pub(crate) used_alone: Option<(i32, i32)>,
    /// The pipe or stream socket that the call has read or written, by which descriptor.
    pub(crate) used_pipe: Option<(i32, Arc<OpenFile>)>,
    /// The stub may put off the next call like this one, as far as the objects are concerned that it is about.
    pub(crate) may_be_deferred: bool,
}

/// What a call has said of a name that it was given, where that changes by calls only.
pub(crate) struct Looked {
    pub directory: i32,
    pub name: Vec<u8>,
    /// One of [`skerry_platform::layout::loan::known`].
    pub kind: u32,
    /// The status that it has shown, and whose it is, if it shows one.
    pub answer: Result<Option<(Metadata, crate::fs::path::Path)>>,
}

/// The registers that a call is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub number: u64,
    pub arguments: [u64; 6],
    /// Instruction behind the `syscall`. Few calls need it: see [`Context::instruction_pointer`].
    pub instruction_pointer: u64,
    /// See [`Context::stack_pointer`].
    pub stack_pointer: u64,
}

/// What follows a call beside its value; most calls leave `Nothing`.
#[derive(Default)]
pub enum After {
    #[default]
    Nothing,
    /// The application makes these host calls itself; then `then` (if any) turns the last one's result into the value.
    Native(Box<NativePlan>),
    /// The application makes a host clone(2), which becomes the task `child`.
    Clone(Box<ClonePlan>),
    /// The thread does not go on (exit).
    Gone,
    /// The task goes on in another host process (exec), whose program begins; or that is dead already.
    Replaced(Option<Box<crate::run::Beginning>>),
    /// A fresh process starts its program.
    Run { entry: u64, stack: u64 },
}

/// A host clone(2) that the caller's stub is to make; addresses are 0 where not given.
pub struct ClonePlan {
    /// One of [`skerry_platform::layout::CLONE_FLAGS`].
    pub host_flags: u64,
    pub stack: u64,
    pub tls: u64,
    pub clear_child_tid: u64,
    pub set_child_tid: u64,
    /// Where the caller stores the child's id; 0: nowhere.
    pub set_parent_tid: u64,
    /// The caller waits until the child executes a program or ends.
    pub vfork: bool,
    pub child: Arc<Task>,
}

impl ClonePlan {
    /// What the child begins with.
    pub(crate) fn order(&self) -> CloneOrder {
        CloneOrder {
            flags: self.host_flags,
            stack: self.stack,
            tls: self.tls,
            clear_child_tid: self.clear_child_tid,
            set_child_tid: self.set_child_tid,
            set_parent_tid: self.set_parent_tid,
            child_tid: self.child.tid() as u64,
            ..CloneOrder::default()
        }
    }
}

/// Turns the result of a native call (a value or -errno) into the call's own result.
pub type Continuation = Box<dyn FnOnce(&mut Context, i64) -> Result<u64> + Send>;

pub struct NativePlan {
    pub calls: Vec<skerry_platform::engine::NativeCall>,
    pub then: Option<Continuation>,
    /// What the call returns where nothing has failed: then `then` need not be asked.
    pub value: Option<u64>,
}

impl<'a> Context<'a> {
    pub fn new(task: &'a Arc<Task>, lead: &'a dyn Lead, call: Call) -> Context<'a> {
        Context {
            task,
            lead,
            call,
            channel: None,
            marshalled: RefCell::default(),
            after: After::Nothing,
            direct_offer: None,
            may_carry_operations: false,
            watch: None,
            seen: None,
            looked: None,
            linked: None,
            to_read: Vec::new(),
            used_alone: None,
            used_pipe: None,
            waited: None,
            may_be_deferred: false,
        }
    }

    /// As [`Context::new`], for a call whose instruction and stack pointer are read from `channel` when they are needed.
    pub(crate) fn of_channel(task: &'a Arc<Task>, lead: &'a dyn Lead, call: Call, channel: &'a Channel) -> Context<'a> {
        Context { channel: Some(channel), ..Context::new(task, lead, call) }
    }

    /// As they came with the call; see [`crate::marshal`].
    pub(crate) fn set_marshalled(&mut self, inputs: Vec<u8>) {
        self.marshalled = RefCell::new(Marshalled::new(inputs));
    }

    fn read_pointers(&mut self) {
        if let Some(channel) = self.channel.take() {
            let detail = channel.detail();
            self.call.instruction_pointer = detail.instruction_pointer;
            self.call.stack_pointer = detail.stack_pointer;
        }
    }

    /// The instruction behind the caller's `syscall`, as far as it says the truth.
    pub fn instruction_pointer(&mut self) -> u64 {
        self.read_pointers();
        self.call.instruction_pointer
    }

    /// The caller's stack pointer, as far as it says the truth.
    pub fn stack_pointer(&mut self) -> u64 {
        self.read_pointers();
        self.call.stack_pointer
    }

    pub fn kernel(&self) -> &'a Arc<Kernel> {
        self.task.kernel()
    }

    pub fn process(&self) -> &'a Arc<Process> {
        self.task.process()
    }

    pub fn memory(&self) -> Arc<GuestMemory> {
        self.task.memory()
    }

    /// Sleeps on the task's own waiter (register it first, see [`crate::sync::wait`]).
    ///
    /// Errors: ERESTARTSYS when a signal is to be delivered (or the task is to die), ETIMEDOUT at the deadline.
    pub fn sleep(&self, deadline: Option<Instant>) -> Result<()> {
        if self.task.is_interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        let woken = self.lead.sleep(self.task.waiter_ref(), deadline);
        // Whoever has woken it may have told it of something there.
        self.kernel().mounts.dentries.board.look();
        if self.task.is_interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        if woken {
            Ok(())
        } else {
            Err(Errno::ETIMEDOUT)
        }
    }

    /// Sleeps until the task's waiter is woken, whatever signals are pending: for waits that only death ends. The caller
    /// checks for that itself. False at the deadline.
    pub(crate) fn sleep_uninterrupted(&self, deadline: Option<Instant>) -> bool {
        self.lead.sleep(self.task.waiter_ref(), deadline)
    }

    /// Sleeps until `attempt` gives something other than EAGAIN. `queue` is the object's.
    pub fn block_on<T>(
        &self,
        queue: &crate::sync::WaitQueue,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        match attempt() {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
        let _registration = queue.register(self.task.waiter());
        loop {
            match attempt() {
                // What ended the sleep may have come together with what was waited for; then that counts.
                Err(Errno::EAGAIN) => match self.sleep(deadline) {
                    Ok(()) => {}
                    Err(reason) => return attempt().map_err(|error| if error == Errno::EAGAIN { reason } else { error }),
                },
                other => return other,
            }
        }
    }

    /// Called before host work that may take long (disk, a slow host file), so that other tasks are served meanwhile.
    pub fn before_slow_host_call(&self) {
        self.lead.before_blocking();
    }

    /// Reads a structure; EFAULT where it is not readable.
    pub fn read<T: FromBytes + IntoBytes + Immutable>(&self, address: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Reads `count` structures; the caller has bounded `count`.
    pub fn read_array<T: FromBytes + IntoBytes + Immutable + KnownLayout>(&self, address: u64, count: usize) -> Result<Vec<T>> {
        let mut values = T::new_vec_zeroed(count).map_err(|_| Errno::ENOMEM)?;
        self.read_bytes(address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Writes a structure; EFAULT where it is not writable.
    pub fn write<T: IntoBytes + Immutable + ?Sized>(&self, address: u64, value: &T) -> Result<()> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Fills `bytes` whole, or EFAULT.
    pub fn read_bytes(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        if self.read_some(address, bytes) == bytes.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Writes `bytes` whole, or EFAULT.
    pub fn write_bytes(&self, address: u64, bytes: &[u8]) -> Result<()> {
        if self.write_some(address, bytes) == bytes.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Fills `bytes` from `address`; returns how many bytes were readable from the start (less than asked: a fault).
    pub fn read_some(&self, address: u64, bytes: &mut [u8]) -> usize {
        let marshalled = self.marshalled.borrow();
        let count = if marshalled.read(address, bytes) { bytes.len() } else { self.memory().read(address, bytes) };
        if marshalled.has_results() {
            marshalled.overlay(address, &mut bytes[..count]);
        }
        count
    }

    /// Writes `bytes` to `address`; returns how many were written from the start. The guest may see them only when the call
    /// returns, but the call itself does at once.
    pub fn write_some(&self, address: u64, bytes: &[u8]) -> usize {
        let mut marshalled = self.marshalled.borrow_mut();
        if marshalled.write(address, bytes) {
            return bytes.len();
        }
        marshalled.forget(address, bytes.len());
        drop(marshalled);
        // What comes later counts where they overlap.
        let _ = self.write_results();
        self.memory().write(address, bytes)
    }

    /// What the stub is to write to the guest's memory on the way out goes to `put`. Returns how much it is.
    pub(crate) fn take_results(&self, put: impl FnOnce(&[u8])) -> usize {
        self.marshalled.borrow_mut().take_results(put)
    }

    pub(crate) fn has_results(&self) -> bool {
        self.marshalled.borrow().has_results()
    }

    /// Writes now what the stub was to write: it is not going to return from the call as usual. EFAULT where the memory
    /// has changed since the call began.
    pub(crate) fn write_results(&self) -> Result<()> {
        let mut marshalled = self.marshalled.borrow_mut();
        if !marshalled.has_results() {
            return Ok(());
        }
        let memory = self.memory();
        if marshalled.write_results(|address, bytes| memory.write(address, bytes)) {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// The call begins anew: guest memory may be another by now.
    pub(crate) fn forget_marshalled(&self) {
        self.marshalled.borrow_mut().forget_all();
    }

    /// Reads a zero-terminated string of at most `limit` bytes (zero included). Errors: EFAULT, and `too_long`.
    pub fn read_c_string(&self, address: u64, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        if let Some(string) = self.marshalled.borrow().string(address) {
            return if string.len() < limit { Ok(string.to_vec()) } else { Err(too_long) };
        }
        let mut string = Vec::new();
        let mut position = address;
        while string.len() < limit {
            // Up to the end of the page, so that a string that ends before an unmapped page is read.
            let chunk =
                ((4096 - position % 4096) as usize).min(limit - string.len()).min(if string.is_empty() { 256 } else { 4096 });
            let start = string.len();
            string.resize(start + chunk, 0);
            let got = self.read_some(position, &mut string[start..]);
            string.truncate(start + got);
            if let Some(end) = string[start..].iter().position(|&byte| byte == 0) {
                string.truncate(start + end);
                return Ok(string);
            }
            if got < chunk {
                return Err(Errno::EFAULT);
            }
            position = position.checked_add(chunk as u64).ok_or(Errno::EFAULT)?;
        }
        Err(too_long)
    }

    /// Reads a path: EFAULT, ENAMETOOLONG. An empty path is returned as it is (ENOENT is the walk's to say).
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>> {
        self.read_c_string(address, PATH_MAX, Errno::ENAMETOOLONG)
    }

    /// Gives `file` the lowest free descriptor. EMFILE at RLIMIT_NOFILE.
    pub fn install(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<i32> {
        let limit = self.process().rlimit(skerry_abi::raw::general::RLIMIT_NOFILE).current;
        self.task.files().install(file, 0, close_on_exec, limit)
    }

    /// The open file behind a descriptor; EBADF (also for O_PATH ones: use `task.files().get()` where those are allowed).
    pub fn file(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let file = self.task.file(fd)?;
        if file.flags().contains(StatusFlags::PATH) {
            return Err(Errno::EBADF);
        }
        Ok(file)
    }

    /// `bytes` of a file's data were read or written through `fd`; after some such calls the process may get the file's host
    /// descriptor ([`crate::fs::direct`]).
    pub(crate) fn offer_direct(&mut self, fd: i32, file: &Arc<OpenFile>, bytes: u64) {
        if self.may_carry_operations && file.uses_data(bytes) && file.operations.is_seekable() {
            self.direct_offer = Some((fd, file.clone()));
        }
    }

    /// The caller has read or written by `fd`; of some objects, it may get what they hold to use by itself
    /// ([`crate::fs::lending`]).
    pub(crate) fn note_use(&mut self, fd: i32, file: &Arc<OpenFile>, direction: Transfer) {
        if let Some(usage) = file.operations.usage() {
            self.used_alone = usage.note(self.task.tid(), fd, direction);
            if file.operations.as_any().is::<PipeEnd>() {
                self.used_pipe = Some((fd, file.clone()));
            }
        } else {
            self.note_stream(fd, file);
        }
    }

    /// The same of a stream socket.
    pub(crate) fn note_stream(&mut self, fd: i32, file: &Arc<OpenFile>) {
        if file.downcast::<SocketFile>().is_some_and(|file| file.socket.common().kind == SocketType::Stream) {
            self.used_pipe = Some((fd, file.clone()));
        }
    }

    /// The application is to make `calls` itself (host calls that its filter allows); the last one's result is the
    /// call's value, through `then` where given.
    pub(crate) fn run_native(
        &mut self,
        calls: Vec<skerry_platform::engine::NativeCall>,
        then: Option<Continuation>,
    ) -> Result<u64> {
        self.after = After::Native(Box::new(NativePlan { calls, then, value: None }));
        Ok(0)
    }

    /// As [`Context::run_native`], for a call that returns `value` where none of them fails; only otherwise `after_error` says
    /// what it returns.
    pub(crate) fn run_native_for(
        &mut self,
        calls: Vec<skerry_platform::engine::NativeCall>,
        value: u64,
        after_error: Continuation,
    ) -> Result<u64> {
        self.after = After::Native(Box::new(NativePlan { calls, then: Some(after_error), value: Some(value) }));
        Ok(0)
    }
}
