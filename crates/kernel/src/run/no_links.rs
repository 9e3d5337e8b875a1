//! Names that are no links: realpath(3) asks readlink(2) about each directory of a name, and compilers ask for the real path of
//! every file that they look for, so that most of these questions are about the same few directories (ADR 40).
//!
//! A thread's last ones are remembered as names only. With the answer to a call that more of them may follow, the thread is
//! told what readlink(2) would say of each now, as far as that is known without a search; how long the stub may believe it is
//! [`super::loan`]'s to say.

use super::loan::Reading;
use crate::fs::inode::{FileType, Names};
use crate::fs::path::Path;
use crate::fs::walk::Walker;
use crate::task::Task;
use crate::Errno;
use skerry_platform::processor::ticks;
use std::sync::Arc;

/// Names that are remembered at most, and how long one may be.
const MOST: usize = 32;
const LONGEST: usize = 255;

/// What one thread asks about.
#[derive(Default)]
pub(super) struct NoLinks {
    /// In their order, so that a directory comes before what is in it.
    names: Vec<Vec<u8>>,
    /// The one that goes next.
    oldest: usize,
    pub usual: Reading,
    told: Option<Told>,
}

/// What was found out when they were looked at last: each look asks the host about each directory.
struct Told {
    answers: Vec<(Vec<u8>, i32)>,
    /// Of [`super::loan::Loans`]: what has changed until then.
    changes: u64,
    /// The processor's time.
    then: u64,
}

/// A directory on the way, and how its names stand.
struct Place {
    name: Vec<u8>,
    path: Path,
    names: Names,
}

impl NoLinks {
    /// readlink(2) has been asked about a directory, or about nothing, by this name.
    pub fn note(&mut self, name: &[u8]) {
        if !is_clean(name) {
            return;
        }
        match self.names.binary_search_by(|known| known.as_slice().cmp(name)) {
            // It could have been told.
            Ok(_) => return self.usual.note(true),
            Err(_) if self.names.len() >= MOST => {
                self.oldest = (self.oldest + 1) % MOST;
                self.names.remove(self.oldest);
                let at = self.names.partition_point(|known| known.as_slice() < name);
                self.names.insert(at, name.to_vec());
            }
            Err(at) => self.names.insert(at, name.to_vec()),
        }
        self.told = None;
    }

    /// Whether telling them is of use.
    pub fn are_asked(&self) -> bool {
        self.names.len() > 1 && self.usual.is_usual()
    }

    /// What readlink(2) says of them, and when they were looked at: no longer ago than `recently`, and behind the last of the
    /// `changes`.
    pub fn answers(&mut self, task: &Arc<Task>, changes: u64, recently: u64) -> (&[(Vec<u8>, i32)], u64) {
        let now = ticks();
        let holds = |told: &Told| told.changes == changes && now.wrapping_sub(told.then) < recently;
        if !self.told.as_ref().is_some_and(holds) {
            self.told = Some(Told { answers: self.look(task), changes, then: now });
        }
        self.told.as_ref().map_or((&[], now), |told| (&told.answers, told.then))
    }

    fn look(&self, task: &Arc<Task>) -> Vec<(Vec<u8>, i32)> {
        let credentials = task.credentials();
        let root = task.fs().root;
        let mut walker = Walker::new(&task.kernel().mounts, root.clone(), &credentials).of(task);
        let mut places: Vec<Place> = Vec::new();
        let mut answers = Vec::new();
        for name in &self.names {
            let Some(slash) = name.iter().rposition(|byte| *byte == b'/') else { continue };
            let (above, last) = (&name[..slash], &name[slash + 1..]);
            let known = places.iter().position(|place| place.name == above);
            let index = match known {
                Some(index) => index,
                None => {
                    let path = if above.is_empty() {
                        root.clone()
                    } else {
                        match walker.walk(&root, above, crate::fs::walk::Follow::Yes) {
                            Ok(path) => path,
                            Err(_) => continue,
                        }
                    };
                    add(&mut places, above, path);
                    places.len() - 1
                }
            };
            let Some(place) = places.get(index).filter(|place| place.path.dentry.is_directory()) else { continue };
            match walker.known_step(&place.path, place.names, last) {
                Some(Ok(path)) if path.inode().kind() == FileType::Directory => {
                    answers.push((name.clone(), Errno::EINVAL.0));
                    add(&mut places, name, path);
                }
                Some(Err(Errno::ENOENT)) => answers.push((name.clone(), Errno::ENOENT.0)),
                _ => {}
            }
        }
        answers
    }
}

fn add(places: &mut Vec<Place>, name: &[u8], path: Path) {
    let inode = path.inode();
    // What comes and goes by itself is not remembered at all.
    let names = if inode.file_system().is_volatile() { Names::Changing } else { inode.names() };
    places.push(Place { name: name.to_vec(), path, names });
}

/// As realpath(3) makes them: absolute, and nothing in them leads elsewhere but links.
fn is_clean(name: &[u8]) -> bool {
    name.len() > 1
        && name.len() <= LONGEST
        && name[0] == b'/'
        && name[1..].split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_names_are_remembered_and_not_too_many() {
        let mut names = NoLinks::default();
        for name in [&b"usr"[..], b"/", b"", b"/usr/", b"//usr", b"/usr/./x", b"/usr/..", &[b'/'; 300]] {
            names.note(name);
        }
        assert!(names.names.is_empty() && !names.are_asked());
        for number in 0..1000 {
            names.note(format!("/usr/{}", number % 100).as_bytes());
        }
        assert_eq!(names.names.len(), MOST);
        assert!(names.names.is_sorted() && names.are_asked());
    }
}
