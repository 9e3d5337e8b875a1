//! For unit tests: a kernel, processes and threads without a host behind them, and contexts of their calls.
//!
//! Guest memory is the test's own: addresses are those of its variables ([`address_of`]).

use crate::context::{Call, NoLead};
use crate::fs::fd_table::FdTable;
use crate::task::{spawn, Credentials, FsContext, SpawnRequest, Task};
use crate::{Context, Kernel};
use skerry_control::{Limits, Network};
use skerry_platform::memory::GuestMemory;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Numbers that look random and are the same in every run with the same seed (xorshift64*), and how long to go on with
/// them: two seconds, or SKERRY_FUZZ_SECONDS.
pub struct Random {
    state: u64,
    end: std::time::Instant,
}

impl Random {
    /// The seed comes from SKERRY_FUZZ_SEED where that is set.
    pub fn new(seed: u64) -> Random {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("SKERRY_FUZZ_SEED").unwrap_or(seed);
        let seconds = number("SKERRY_FUZZ_SECONDS").unwrap_or(2);
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Random { state, end: std::time::Instant::now() + std::time::Duration::from_secs(seconds) }
    }

    pub fn is_time_left(&self) -> bool {
        std::time::Instant::now() < self.end
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Changes some bytes, words or the length.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const WORDS: [u64; 10] =
            [0, 1, 2, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX, 0xffff_ffff_ffff_f000];
        for _ in 0..1 + self.below(4) {
            if bytes.is_empty() {
                bytes.push(self.next() as u8);
                continue;
            }
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let place = self.below(bytes.len());
                    bytes.splice(place..place, copy);
                }
                4 => drop(bytes.drain(at..(at + 1 + self.below(16)).min(bytes.len()))),
                width => {
                    let word = if self.below(3) == 0 { self.next() } else { *self.pick(&WORDS) };
                    let width = 1 << (width - 4);
                    let at = at / width * width;
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
                }
            }
        }
    }
}

pub fn kernel() -> Arc<Kernel> {
    kernel_with(Limits::default())
}

pub fn kernel_with(limits: Limits) -> Arc<Kernel> {
    Kernel::new(b"test", limits, Network::Loopback, false, Box::new(|_| {}))
}

/// A process of root, alone in its session, as `skerry do` starts one.
pub fn process(kernel: &Arc<Kernel>) -> Arc<Task> {
    process_of(kernel, Credentials::new(0, 0, Vec::new()))
}

pub fn process_of(kernel: &Arc<Kernel>, credentials: Credentials) -> Arc<Task> {
    let request = SpawnRequest {
        name: b"test".to_vec(),
        credentials,
        fs: FsContext { root: root(), current: root(), umask: 0o022 },
        files: Arc::new(FdTable::default()),
        memory: Arc::new(GuestMemory::of_pid(std::process::id() as i32)),
    };
    spawn(kernel, request).expect("room for a process")
}

pub fn context(task: &Arc<Task>) -> Context<'_> {
    Context::new(task, &NoLead, Call::default())
}

/// Where a variable is, for calls that read it.
pub fn address_of<T: IntoBytes + zerocopy::Immutable + ?Sized>(value: &T) -> u64 {
    value.as_bytes().as_ptr() as u64
}

/// Where a variable is, for calls that write to it.
pub fn address_of_mut<T: IntoBytes + zerocopy::FromBytes>(value: &mut T) -> u64 {
    value.as_mut_bytes().as_mut_ptr() as u64
}

/// A root directory with nothing in it.
fn root() -> crate::fs::path::Path {
    use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata};
    use crate::fs::mount::{MountFlags, MountTable, NewMount};

    struct Nothing;
    impl Inode for Nothing {
        fn metadata(&self) -> crate::Result<Metadata> {
            Err(crate::Errno::EIO)
        }
        fn kind(&self) -> FileType {
            FileType::Directory
        }
        fn file_system(&self) -> Arc<dyn FileSystem> {
            Arc::new(Nothing)
        }
        fn open(
            self: Arc<Self>,
            _: &Context,
            _: crate::fs::file::StatusFlags,
        ) -> crate::Result<Arc<dyn crate::fs::file::FileOperations>> {
            Err(crate::Errno::EIO)
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    impl FileSystem for Nothing {
        fn root(&self) -> Arc<dyn Inode> {
            Arc::new(Nothing)
        }
        fn statistics(&self) -> crate::Result<skerry_abi::structs::StatFs> {
            Err(crate::Errno::EIO)
        }
        fn type_name(&self) -> &'static str {
            "nothing"
        }
        fn device(&self) -> Device {
            Device::default()
        }
    }
    MountTable::new().set_root(NewMount {
        file_system: Arc::new(Nothing),
        root: None,
        source: b"none".to_vec(),
        options: String::new(),
        flags: MountFlags::empty(),
    })
}
