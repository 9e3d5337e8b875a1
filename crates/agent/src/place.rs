//! Finding a file as a program would: from its own directory and root, component by component. What leads to "oneself" below
//! /proc (`/proc/self`, and so `/dev/fd/3`) leads to the program, not to us.

use rustix::fs::{readlinkat, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Linux follows no more.
const MOST_LINKS: u32 = 40;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// What a call names: a descriptor of the program's, or a path from a directory of its.
pub struct Named {
    pub directory: i32,
    pub path: Option<Vec<u8>>,
    pub follow: bool,
}

/// Where the way ended.
pub struct Stopped {
    pub error: Errno,
    /// The last directory that was there, if there was one, and whether only the last name was missing in it.
    pub directory: Option<OwnedFd>,
    pub is_last: bool,
}

impl From<Errno> for Stopped {
    fn from(error: Errno) -> Stopped {
        Stopped { error, directory: None, is_last: false }
    }
}

/// The file, opened as a place only.
pub fn find(thread: i32, named: &Named) -> Result<OwnedFd, Stopped> {
    let of_it = |what: &str| rustix::fs::open(format!("/proc/{thread}/{what}"), place(), Mode::empty());
    let missing_is_bad = |error| if error == Errno::NOENT { Errno::BADF } else { error };
    let from = || match named.directory {
        libc::AT_FDCWD => of_it("cwd"),
        number if number < 0 => Err(Errno::BADF),
        number => of_it(&format!("fd/{number}")).map_err(missing_is_bad),
    };
    let Some(path) = &named.path else { return Ok(from()?) };
    if path.is_empty() {
        return Err(Errno::NOENT.into());
    }
    let root = of_it("root")?;
    let start = if path.starts_with(b"/") { root.try_clone().map_err(|_| Errno::MFILE)? } else { from()? };
    Walk { thread, root, links: 0 }.to(start, path, named.follow)
}

fn place() -> OFlags {
    OFlags::PATH | OFlags::CLOEXEC
}

struct Walk {
    thread: i32,
    root: OwnedFd,
    links: u32,
}

impl Walk {
    fn to(&mut self, start: OwnedFd, path: &[u8], follow: bool) -> Result<OwnedFd, Stopped> {
        let mut here = start;
        let mut names: VecDeque<Vec<u8>> = components(path).collect();
        let wants_directory = path.ends_with(b"/");
        while let Some(name) = names.pop_front() {
            if name == b"." || (name == b".." && self.is_root(here.as_fd())?) {
                continue;
            }
            let stopped = |error, here: OwnedFd, names: &VecDeque<Vec<u8>>| Stopped {
                error,
                directory: Some(here),
                is_last: names.is_empty(),
            };
            let next = match rustix::fs::openat(&here, &name[..], place() | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => next,
                Err(error) => return Err(stopped(error, here, &names)),
            };
            let is_link = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode).is_symlink();
            if !is_link || (names.is_empty() && !follow && !wants_directory) {
                here = next;
                continue;
            }
            self.links += 1;
            if self.links > MOST_LINKS {
                return Err(Errno::LOOP.into());
            }
            match self.target(here.as_fd(), next.as_fd(), &name)? {
                Some(target) => {
                    if target.starts_with(b"/") {
                        here = self.root.try_clone().map_err(|_| Errno::MFILE)?;
                    }
                    for part in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        names.push_front(part);
                    }
                }
                None => match rustix::fs::openat(&here, &name[..], place(), Mode::empty()) {
                    Ok(next) => here = next,
                    Err(error) => return Err(stopped(error, here, &names)),
                },
            }
        }
        Ok(here)
    }

    /// The text of a link; `None`: it is one of /proc's that lead to an open file, whoever follows them.
    fn target(&self, directory: BorrowedFd, link: BorrowedFd, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if rustix::fs::fstatfs(directory)?.f_type as i64 == PROC_SUPER_MAGIC {
            match name {
                b"self" => return Ok(Some(self.process()?.into_bytes())),
                b"thread-self" => return Ok(Some(format!("{}/task/{}", self.process()?, self.thread).into_bytes())),
                b"mounts" | b"net" => {}
                _ => return Ok(None),
            }
        }
        let text = readlinkat(link, "", Vec::new())?.into_bytes();
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        Ok(Some(text))
    }

    fn process(&self) -> Result<String, Errno> {
        crate::rules::reach::process_of(self.thread).map(|process| process.to_string()).ok_or(Errno::SRCH)
    }

    fn is_root(&self, directory: BorrowedFd) -> Result<bool, Errno> {
        let (one, other) = (rustix::fs::fstat(directory)?, rustix::fs::fstat(&self.root)?);
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

/// Whether there is something of that name, a link not followed.
pub fn is_there(directory: BorrowedFd, name: &[u8]) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    fn thread() -> i32 {
        rustix::thread::gettid().as_raw_pid()
    }

    fn found(path: &[u8], follow: bool) -> Result<std::path::PathBuf, Errno> {
        let named = Named { directory: libc::AT_FDCWD, path: Some(path.to_vec()), follow };
        find(thread(), &named)
            .map(|file| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap())
            .map_err(|stopped| stopped.error)
    }

    #[test]
    fn links_are_followed_as_the_program_would() {
        let top = std::env::temp_dir().join(format!("skerry-test-place-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("../a/./file", top.join("a/link")).unwrap();
        std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
        let top = top.canonicalize().unwrap();
        let at = |rest: &str| [top.as_os_str().as_bytes(), rest.as_bytes()].concat();
        assert_eq!(found(&at("/a/b/../link"), true).unwrap(), top.join("a/file"));
        assert_eq!(found(&at("/a/link"), false).unwrap(), top.join("a/link"));
        assert_eq!(found(&at("/loop"), true).unwrap_err(), Errno::LOOP);
        assert_eq!(found(&at("/a/file/x"), true).unwrap_err(), Errno::NOTDIR);
        assert_eq!(found(b"/../..", true).unwrap(), std::path::Path::new("/"));
        let open = std::fs::File::open(top.join("a/file")).unwrap();
        let number = open.as_raw_fd();
        for name in [format!("/dev/fd/{number}"), format!("/proc/thread-self/fd/{number}")] {
            assert_eq!(found(name.as_bytes(), true).unwrap(), top.join("a/file"), "{name}");
        }
        let missing = Named { directory: libc::AT_FDCWD, path: Some(at("/a/b/new")), follow: true };
        let stopped = find(thread(), &missing).unwrap_err();
        assert!(stopped.error == Errno::NOENT && stopped.is_last && is_there(stopped.directory.unwrap().as_fd(), b"."));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
