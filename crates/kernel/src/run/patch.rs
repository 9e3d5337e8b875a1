//! Patched pages for processes that run already: laid over code that was mapped before its image was there, when many
//! calls of the process have trapped ([`crate::image`]).
//!
//! This happens only while nobody else runs in the address space: the calling thread waits in its call, and all others are held in
//! theirs ([`super::hold`]), so that what was looked at stays as it is until its stub has mapped the pages. What they replace must be,
//! byte for byte, what the file has there; and what replaces it leaves an instruction wherever a thread or a frame on its stack may
//! stand ([`Later::Ready`]).
//!
//! The call that told of the traps has not begun by then; it is made once more behind it.

use super::{AddressSpace, Engine, GuestThread, PlainCode};
use crate::context::{After, Continuation, NativePlan};
use crate::image::{Image, Images, Later};
use crate::task::{self, ExitStatus};
use crate::{Context, Errno};
use skerry_abi::raw::general::__NR_mmap;
use skerry_abi::signal::Signal;
use skerry_platform::engine::NativeCall;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// With those of one more image, one answer has room for so many.
const CALLS_AT_ONCE: usize = 64;

impl Engine {
    /// Has a thread, which has trapped often, lay patched pages over its code. False: there are none, and its call is to be
    /// served.
    pub(super) fn patch_late(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &Context) -> bool {
        let space = &thread.space;
        let images = &context.kernel().images;
        let may_be = space.owner == thread.process.pid && !context.task.traced.load(Ordering::Relaxed);
        if !may_be || !space.plain_code().iter().any(|code| matches!(images.later(code.file), Later::Ready { .. })) {
            return false;
        }
        self.take_births_back(Some(context.process()));
        let held = if space.has_one_thread() {
            None
        } else {
            let Some(held) = self.hold_others(thread, context) else { return false };
            Some(held)
        };
        let Patches { calls, undoing, before } = late_patches(space, context);
        if calls.is_empty() {
            return false;
        }
        let then: Continuation = Box::new(move |context, status| match status {
            // Sites of pages that are there may lead to some that are not.
            ..0 => {
                let then: Continuation = Box::new(move |context, status| {
                    let result = end_if_failed(&before, context, status);
                    drop(held);
                    result
                });
                context.run_native(undoing, Some(then))
            }
            _ => {
                drop(held);
                Err(Errno::ERESTARTNOINTR)
            }
        });
        self.ask_native(thread, context, NativePlan { calls, then: Some(then), value: None }).is_ok()
    }
}

fn late_patches(space: &AddressSpace, context: &Context) -> Patches {
    let mut patches = Patches::default();
    let images = &context.kernel().images;
    for code in space.take_plain_code() {
        if patches.calls.len() >= CALLS_AT_ONCE {
            space.add_plain_code(code);
            continue;
        }
        match images.later(code.file) {
            Later::NotYet => space.add_plain_code(code),
            Later::Never => {}
            Later::Ready { image, pages, file } => {
                for (call, bytes) in replace(context, &code, &image, &pages, &file).unwrap_or_default() {
                    patches.undoing.push(plain(&call, &file));
                    patches.before.push((call.arguments[0], bytes));
                    patches.calls.push(call);
                }
            }
        }
    }
    patches
}

/// What is to be mapped over a thread's code, what puts that back as it was, and what is there before, by address.
#[derive(Default)]
struct Patches {
    calls: Vec<NativeCall>,
    undoing: Vec<NativeCall>,
    before: Vec<(u64, Vec<u8>)>,
}

/// `None`: something else is there now, or something has been changed there.
fn replace(
    context: &Context,
    code: &PlainCode,
    image: &Image,
    pages: &Arc<OwnedFd>,
    file: &OwnedFd,
) -> Option<Vec<(NativeCall, Vec<u8>)>> {
    let memory = context.memory();
    let mut calls = Vec::new();
    for (run, call) in image.replace(pages, code.address, (code.offset, code.length), code.protection) {
        let bytes = Images::plain_bytes(file, run)?;
        if !memory.is_code(call.arguments[0], &bytes) {
            return None;
        }
        calls.push((call, bytes));
    }
    Some(calls)
}

/// The same mapping of the file itself.
fn plain(call: &NativeCall, file: &Arc<OwnedFd>) -> NativeCall {
    NativeCall::with_descriptor(__NR_mmap, call.arguments, 4, file.clone())
}

/// Where a process can have no more mappings, nothing could be replaced, and there is nothing to be put back.
fn end_if_failed(before: &[(u64, Vec<u8>)], context: &mut Context, status: i64) -> crate::Result<u64> {
    if status < 0 && !before.iter().all(|(address, bytes)| context.memory().is_code(*address, bytes)) {
        task::exit_group(context.task, ExitStatus::Signaled(Signal::SIGKILL, false));
        context.after = After::Gone;
    }
    Err(Errno::ERESTARTNOINTR)
}
