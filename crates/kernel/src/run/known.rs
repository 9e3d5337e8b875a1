//! What calls have said of names: programs ask for the status of a name that they have just asked about (whether it is there,
//! and then how old it is), wait for a file to come, or look whether one has changed.
//!
//! So what stat(2) and access(2) have said of a name goes along with the answer, as long as that is made use of now and then. It holds
//! as a loan does (ADR 26, 46).

use super::attributes::{believed_until, Until};
use super::GuestThread;
use crate::context::{Context, Looked};
use skerry_platform::channel::Known;
use skerry_platform::layout::loan::{self, known};
use zerocopy::IntoBytes;

/// What one use is worth, in times that it was told in vain; and up to how many are made up for.
const WORTH: u32 = 8;
const MOST: u32 = 32;

/// What a thread asks about.
pub(super) struct LastName {
    directory: i32,
    name: Vec<u8>,
    kind: u32,
    /// For so many times it is worth being told.
    worth: u32,
}

impl Default for LastName {
    fn default() -> LastName {
        LastName { directory: 0, name: Vec::new(), kind: 0, worth: WORTH }
    }
}

impl LastName {
    /// It was told: whether it has been used.
    pub fn was_told(&mut self, was_used: bool) {
        self.worth = if was_used { (self.worth + WORTH).min(MOST) } else { self.worth.saturating_sub(1) };
    }

    /// A call has said something of a name. Whether to tell it.
    fn note(&mut self, looked: &Looked) -> bool {
        let Looked { directory, name, kind, .. } = looked;
        if self.worth > 0 {
            return true;
        }
        if self.kind == *kind && self.directory == *directory && self.name == *name {
            // It could have been told.
            self.was_told(true);
        }
        (self.directory, self.kind) = (*directory, *kind);
        self.name.clone_from(name);
        self.worth > 0
    }
}

/// What the call has said of a name, to be told; and until what that holds.
pub(super) fn said(thread: &GuestThread, context: &Context) -> Option<(Known, Until)> {
    let looked = context.looked.as_ref()?;
    if !thread.last_name.lock().note(looked) {
        return None;
    }
    let (answer, mut until) = match &looked.answer {
        Ok(Some((metadata, place))) => {
            let status = metadata.stat().as_bytes().try_into().ok()?;
            let until = believed_until(thread, context, &context.task.files(), place.inode(), metadata)?;
            (Ok(Some(Box::new(status))), until)
        }
        Ok(None) => (Ok(None), Until::default()),
        Err(errno) => (Err(errno.0), Until::default()),
    };
    // That may tell what the host has changed.
    until.own |= loan::UNTIL_READ;
    let kind = looked.kind | if until.read.is_some() { known::SHOWS_READING } else { 0 };
    Some((Known { directory: looked.directory, name: looked.name.clone(), kind, answer }, until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Errno;

    fn looked(name: &[u8]) -> Looked {
        Looked { directory: -100, name: name.to_vec(), kind: known::STATUS, answer: Err(Errno::ENOENT) }
    }

    #[test]
    fn names_are_told_as_long_as_one_of_some_is_asked_for_again() {
        let mut last = LastName::default();
        for round in 0..100 {
            assert!(last.note(&looked(b"name")));
            last.was_told(round % 4 == 0);
        }
        while last.note(&looked(b"some")) {
            last.was_told(false);
        }
        for name in [&b"other"[..], b"others", b"another"] {
            assert!(!last.note(&looked(name)));
        }
        assert!(last.note(&looked(b"another")));
    }
}
