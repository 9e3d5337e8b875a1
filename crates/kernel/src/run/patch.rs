//! Patched pages for processes that run already: laid over code that was mapped before its image was there, when many
//! calls of the process have trapped ([`crate::image`]).
//!
//! This happens only while nobody else runs in the address space: the calling thread waits in its call, so that what was
//! looked at stays as it is until its stub has mapped the pages. What they replace must be, byte for byte, what the file
//! has there.

use super::{Engine, GuestThread, PlainCode};
use crate::image::{Image, Images, Later};
use crate::Context;
use skerry_platform::engine::NativeCall;
use std::os::fd::OwnedFd;

/// With those of one more image, one answer has room for so many.
const CALLS_AT_ONCE: usize = 64;

impl Engine {
    /// What the thread, which has trapped often, is to map over its code.
    pub(super) fn late_patches(&self, thread: &GuestThread, context: &Context) -> Vec<NativeCall> {
        let mut calls = Vec::new();
        let space = &thread.space;
        if space.owner != thread.process.pid || !space.has_one_thread() {
            return calls;
        }
        let images = &context.kernel().images;
        for code in space.take_plain_code() {
            if calls.len() >= CALLS_AT_ONCE {
                space.add_plain_code(code);
                continue;
            }
            match images.later(code.file) {
                Later::NotYet => space.add_plain_code(code),
                Later::Never => {}
                Later::Ready(image, file) => calls.extend(replace(context, &code, &image, &file).unwrap_or_default()),
            }
        }
        calls
    }
}

/// `None`: something else is there now, or something has been changed there.
fn replace(context: &Context, code: &PlainCode, image: &Image, file: &OwnedFd) -> Option<Vec<NativeCall>> {
    let memory = context.memory();
    let mut calls = Vec::new();
    for (run, call) in image.replace(code.address, code.offset, code.length, code.protection) {
        let bytes = Images::plain_bytes(file, run)?;
        if !memory.is_code(call.arguments[0], &bytes) {
            return None;
        }
        calls.push(call);
    }
    Some(calls)
}
