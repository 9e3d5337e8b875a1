//! The stub: the piece of Skerry that is mapped into every application process.
//!
//! It begins its life as the *zygote*, a process of its own that the sentry starts before anything secret exists, and
//! that forks the pool; each pool process puts itself behind the filters and becomes an application when the sentry gives
//! it a program. From then on it runs only where a call of the guest comes in: trapped, in a signal handler ([`handlers`]), or
//! from a patched site ([`entry`]); [`serve`] has a call's way from there, [`local`] what is answered here, [`native`] the
//! calls that the host serves directly, [`direct`] reads and writes of open files, [`marshal`] what travels with a call,
//! [`deferred`] calls that go along with later ones, [`loan`] calls on the file that was used last, [`objects`] eventfds and pipes that nobody else uses, [`pipes`] pipes that two share, [`park`] threads that are kept for later, [`births`] those that begin and end here, [`infancy`] processes that go on before they present themselves, [`board`] names that are not there, [`handoff`] the last step to the
//! sentry, [`context`] signal frames, [`bases`] thread pointers, [`expected`] mappings that were made before they are asked for, [`cpuid`] what the processor would say.
//!
//! What a process runs that forks, and that its child runs to its end, lies together, in the section `.calls`: the host maps what a child
//! comes to, sixteen pages at a time, and takes it down again.
//!
//! What is written to lies in `.data`, zeros too: each mapping that a process has is copied by its forks.
//!
//! Nothing here is trusted once guest code has run in the process: see `layout.rs` for what the sentry may believe.
//! Built for x86_64-unknown-none, so that no vector register is ever touched: they are the guest's.
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

mod bases;
mod births;
mod board;
mod context;
mod copies;
mod cpuid;
mod deferred;
mod direct;
mod entry;
mod events;
mod expected;
mod handlers;
mod handoff;
mod heap;
mod host;
mod infancy;
#[allow(dead_code)]
mod layout;
mod loan;
mod local;
mod marshal;
mod native;
mod objects;
mod park;
mod pipes;
mod positions;
mod registers;
mod serve;
mod streams;
mod thread;
mod tracing;
mod trampoline;
mod watching;
mod windows;
mod zygote;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    host::exit(1)
}

/// Plain copies, for the compiler's own use.
mod memory {
    #[no_mangle]
    unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
        // SAFETY: as memcpy(3) asks of its caller.
        unsafe {
            core::arch::asm!("rep movsb", inout("rcx") length => _, inout("rdi") destination => _, inout("rsi") source => _,
                options(nostack, preserves_flags))
        };
        destination
    }

    #[no_mangle]
    unsafe extern "C" fn memset(destination: *mut u8, value: i32, length: usize) -> *mut u8 {
        // SAFETY: as memset(3) asks of its caller.
        unsafe {
            core::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") destination => _, in("al") value as u8,
                options(nostack, preserves_flags))
        };
        destination
    }
}
