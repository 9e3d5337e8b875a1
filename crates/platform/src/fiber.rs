//! Fibers: stacks that a thread runs code on, and leaves in the middle of it for another one. A call that has to wait
//! keeps its fiber, not a thread of the host.
//!
//! A [`Fiber`] value is the right to go on with code that has been left. [`switch`] leaves the running code for it, on
//! whichever thread calls; so code comes back from `switch` on another thread than it went in on. Two things follow that
//! no compiler checks, and that whoever calls `switch` sees to:
//!
//! - Nothing that belongs to one thread lives across it: no lock guard, no reference from `LocalKey::with`. A function
//!   that reads a thread-local and can run on both sides is `#[inline(never)]`, so that its address is not kept either.
//! - A fiber that is dropped frees its stack and nothing else: only those are, which have nothing on it that has to go.
//!
//! Neighbours: the kernel crate's `run::worker` says what runs on fibers and when they switch.

use crate::HostError;
use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;

/// Of one fiber. Only what has been touched takes memory.
pub const STACK_SIZE: usize = 512 << 10;
/// Under each stack: running over it is a fault.
const GUARD_SIZE: usize = 4096;

/// Code that has been left, or has not begun.
pub struct Fiber {
    stack_pointer: NonNull<u8>,
    stack: Stack,
}

// SAFETY: nobody else uses the stack while the value exists; what is on it may change threads (see the module's text).
unsafe impl Send for Fiber {}

/// The memory of a stack; `None` for the one that a thread was started on, which is the thread's.
#[repr(transparent)]
struct Stack(Option<NonNull<u8>>);

impl Stack {
    fn new() -> Result<Stack, HostError> {
        let (size, rights) = (GUARD_SIZE + STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        // SAFETY: a fresh mapping at an address of the host's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, rights, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(HostError::last("mmap of a stack"));
        }
        let stack = Stack(NonNull::new(base.cast()));
        // SAFETY: the lowest page of what has just been mapped.
        if unsafe { libc::mprotect(base, GUARD_SIZE, libc::PROT_NONE) } != 0 {
            return Err(HostError::last("mprotect of a stack's guard"));
        }
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(base) = self.0 {
            // SAFETY: exactly what `new` mapped; nothing runs on it, since its only owner goes.
            unsafe { libc::munmap(base.as_ptr().cast(), GUARD_SIZE + STACK_SIZE) };
        }
    }
}

thread_local! {
    /// The stack that the thread runs on now.
    static RUNNING: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
}

/// What the code that is left hands to the code that goes on; lies on the stack of the former.
#[repr(C)]
struct Message {
    stack_pointer: *mut u8,
    stack: MaybeUninit<Stack>,
    /// Takes everything out of the message that it is a part of, then does what is to be done.
    deliver: unsafe extern "C" fn(NonNull<Message>),
}

#[repr(C)]
struct MessageWith<A> {
    message: Message,
    argument: ManuallyDrop<A>,
    after: fn(A, Fiber),
}

impl Fiber {
    /// Code that begins with `main`.
    pub fn new(main: extern "C" fn() -> !) -> Result<Fiber, HostError> {
        let stack = Stack::new()?;
        let base = stack.0.ok_or_else(|| HostError::last("mmap of a stack"))?;
        // What `skerry_fiber_switch` takes from a stack: six registers and an address; above them the end of all frames.
        // Behind the address the stack is aligned to 16 bytes, as the stack has to be at a call.
        let words: [usize; 9] = [0, 0, 0, main as *const () as usize, 0, 0, skerry_fiber_start as *const () as usize, 0, 0];
        // SAFETY: within the stack, at its upper end, which is aligned to a page.
        let stack_pointer = unsafe {
            let stack_pointer = base.add(GUARD_SIZE + STACK_SIZE - size_of_val(&words));
            stack_pointer.cast::<[usize; 9]>().write(words);
            stack_pointer
        };
        Ok(Fiber { stack_pointer, stack })
    }
}

/// Leaves the running code for `next`. There, `after` is called first, with `argument` and the code that was left; it
/// may make that go on at once, on another thread. Returns when somebody switches to what was left here.
#[inline(never)]
pub fn switch<A: Send>(next: Fiber, argument: A, after: fn(A, Fiber)) {
    let next_stack = ManuallyDrop::new(next.stack).0;
    let running = Stack(RUNNING.with(|running| running.replace(next_stack)));
    let mut left = MessageWith {
        message: Message { stack_pointer: std::ptr::null_mut(), stack: MaybeUninit::new(running), deliver: deliver::<A> },
        argument: ManuallyDrop::new(argument),
        after,
    };
    // SAFETY: `next` was made by `Fiber::new` or by `deliver`, so its stack pointer is one that `skerry_fiber_switch`
    // left or that looks so, and nobody else has it. The message stays where it is until it has been delivered, since
    // this stack does not run before; it is delivered exactly once, by the code that goes on.
    unsafe {
        let came = skerry_fiber_switch(&raw mut left.message, next.stack_pointer);
        (came.as_ref().deliver)(came);
    }
}

/// # Safety
/// `message` begins a whole `MessageWith<A>` that nobody has delivered yet.
unsafe extern "C" fn deliver<A: Send>(message: NonNull<Message>) {
    // SAFETY: as the caller says; everything is moved out before `after` may let the message's stack go on.
    let (left, argument, after) = unsafe {
        let whole = message.cast::<MessageWith<A>>().as_ptr();
        let stack_pointer = NonNull::new_unchecked((*whole).message.stack_pointer);
        let left = Fiber { stack_pointer, stack: (&raw const (*whole).message.stack).cast::<Stack>().read() };
        (left, ManuallyDrop::into_inner((&raw const (*whole).argument).read()), (*whole).after)
    };
    after(argument, left);
}

/// Where `skerry_fiber_start` goes. A panic does not pass it: there is nobody above.
///
/// # Safety
/// For `skerry_fiber_start` only.
unsafe extern "C" fn skerry_fiber_begin(came: NonNull<Message>, main: extern "C" fn() -> !) -> ! {
    // SAFETY: it comes from `switch`, and has not been delivered.
    unsafe { (came.as_ref().deliver)(came) };
    main()
}

unsafe extern "C" {
    /// Puts the registers that a function keeps on this stack and the stack pointer into `left`; goes on with `next`,
    /// where it returns `left`.
    fn skerry_fiber_switch(left: *mut Message, next: NonNull<u8>) -> NonNull<Message>;
    /// Where a fiber's first `skerry_fiber_switch` returns to; r12 has `main`. Not to be called.
    fn skerry_fiber_start();
}

// Control words of the floating point units are the same on all threads: nobody here changes them.
std::arch::global_asm!(
    ".pushsection .text.skerry_fiber,\"ax\",@progbits",
    ".globl skerry_fiber_switch",
    ".hidden skerry_fiber_switch",
    ".type skerry_fiber_switch,@function",
    "skerry_fiber_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "mov rax, rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size skerry_fiber_switch, . - skerry_fiber_switch",
    ".globl skerry_fiber_start",
    ".hidden skerry_fiber_start",
    ".type skerry_fiber_start,@function",
    "skerry_fiber_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "mov rdi, rax",
    "mov rsi, r12",
    "call {begin}",
    "ud2",
    ".cfi_endproc",
    ".size skerry_fiber_start, . - skerry_fiber_start",
    ".popsection",
    begin = sym skerry_fiber_begin,
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    static STAGE: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    static LEFT: Mutex<Option<Fiber>> = Mutex::new(None);

    fn note(what: &'static str) {
        STAGE.lock().unwrap().push(what);
    }

    fn keep(what: &'static str, left: Fiber) {
        note(what);
        *LEFT.lock().unwrap() = Some(left);
    }

    extern "C" fn main_of_a_fiber() -> ! {
        let on_stack = [7u8; 1000];
        note("begun");
        let back = LEFT.lock().unwrap().take().unwrap();
        switch(back, "left the fiber", keep);
        assert!(on_stack.iter().all(|&byte| byte == 7));
        note("on another thread");
        let caught = std::panic::catch_unwind(|| panic!("a panic that is caught on a fiber"));
        assert!(caught.is_err());
        let back = LEFT.lock().unwrap().take().unwrap();
        switch(back, (), |(), left| drop(left));
        unreachable!("nobody goes on with a fiber that was dropped");
    }

    #[test]
    fn code_goes_on_where_it_was_left_on_whichever_thread() {
        switch(Fiber::new(main_of_a_fiber).unwrap(), "left the thread", keep);
        let fiber = LEFT.lock().unwrap().take().unwrap();
        std::thread::spawn(move || switch(fiber, "left the other thread", keep)).join().unwrap();
        let expected = ["left the thread", "begun", "left the fiber", "left the other thread", "on another thread"];
        assert_eq!(*STAGE.lock().unwrap(), expected);
    }

    #[test]
    fn what_is_handed_over_is_dropped_once() {
        static BACK: Mutex<Option<Fiber>> = Mutex::new(None);
        extern "C" fn other() -> ! {
            let back = BACK.lock().unwrap().take().unwrap();
            switch(back, (), |(), left| drop(left));
            unreachable!()
        }
        let counted = Arc::new(());
        switch(Fiber::new(other).unwrap(), counted.clone(), |counted, left| {
            assert_eq!(Arc::strong_count(&counted), 2);
            *BACK.lock().unwrap() = Some(left);
        });
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn many_fibers_go_round_among_threads() {
        // Each fiber goes to the common list after each turn; any thread takes any of them.
        static READY: Mutex<Vec<Fiber>> = Mutex::new(Vec::new());
        static TURNS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        thread_local!(static BASE: Cell<Option<Fiber>> = const { Cell::new(None) });
        #[inline(never)]
        fn base() -> Fiber {
            BASE.with(Cell::take).unwrap()
        }
        extern "C" fn turn() -> ! {
            let mut sum = 0u64;
            loop {
                for number in 0..100u64 {
                    sum = sum.wrapping_mul(31).wrapping_add(number);
                }
                std::hint::black_box(sum);
                TURNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                switch(base(), (), |(), left| READY.lock().unwrap().push(left));
            }
        }
        for _ in 0..20 {
            READY.lock().unwrap().push(Fiber::new(turn).unwrap());
        }
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..5000 {
                        let next = READY.lock().unwrap().pop();
                        match next {
                            Some(next) => switch(next, (), |(), left| BASE.with(|base| base.set(Some(left)))),
                            None => std::thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(READY.lock().unwrap().len(), 20);
        assert!(TURNS.load(std::sync::atomic::Ordering::Relaxed) > 1000);
    }
}
