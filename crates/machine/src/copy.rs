//! Copies of a guest's memory: mostly nothing.

use crate::failure;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use skerry_control::{Bytes, Copying, Failure, FailureKind};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// What is read at once, and the least that becomes a hole.
const PIECE: usize = 256 << 10;
const PAGE: usize = 4096;

/// With holes where there are zeros.
pub fn sparsely(wanted: &Copying) -> Result<(), Failure> {
    copy(wanted).map_err(|error| {
        let name = String::from_utf8_lossy(&wanted.from.0);
        failure(FailureKind::Unsupported, format!("what is kept of a machine cannot be copied: {name}: {error}"))
    })
}

fn path(bytes: &Bytes) -> &OsStr {
    OsStr::from_bytes(&bytes.0)
}

fn copy(wanted: &Copying) -> std::io::Result<()> {
    let from = File::open(path(&wanted.from))?;
    let to = File::options().write(true).create(true).truncate(false).open(path(&wanted.to))?;
    to.set_len(from.metadata()?.len())?;
    let mut bytes = vec![0; PIECE];
    let mut at = 0;
    // ENXIO: there is no more data.
    while let Some(start) = seek(&from, SeekFrom::Data(at))? {
        let end = seek(&from, SeekFrom::Hole(start))?.unwrap_or(start);
        at = start;
        while at < end {
            let length = PIECE.min((end - at) as usize);
            from.read_exact_at(&mut bytes[..length], at)?;
            write_pages(&to, &bytes[..length], at)?;
            at += length as u64;
        }
    }
    Ok(())
}

fn seek(file: &File, whence: SeekFrom) -> std::io::Result<Option<u64>> {
    match rustix::fs::seek(file, whence) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Those that are not empty, as many at once as lie together.
fn write_pages(to: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let empty = |from: usize| bytes[from..bytes.len().min(from + PAGE)].iter().all(|byte| *byte == 0);
        let mut end = start;
        while end < bytes.len() && !empty(end) {
            end = bytes.len().min(end + PAGE);
        }
        if end > start {
            to.write_all_at(&bytes[start..end], at + start as u64)?;
        }
        start = end.max(start + PAGE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_become_holes() {
        let directory = std::env::temp_dir().join(format!("skerry-copy-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (from, to) = (directory.join("from"), directory.join("to"));
        let mut content = vec![0; 3 * PIECE + 100];
        content[5] = 1;
        content[PIECE + 2 * PAGE] = 2;
        content[PIECE + 3 * PAGE + 7] = 3;
        content[3 * PIECE + 99] = 4;
        std::fs::write(&from, &content).unwrap();
        let name = |path: &std::path::Path| Bytes(path.as_os_str().as_bytes().to_vec());
        sparsely(&Copying { from: name(&from), to: name(&to) }).unwrap();
        assert!(std::fs::read(&to).unwrap() == content);
        use std::os::unix::fs::MetadataExt;
        assert!(std::fs::metadata(&to).unwrap().blocks() * 512 <= 8 * PAGE as u64);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
