//! Threads for file operations from outside: a long one (a whole tree is removed, a host disk is slow) holds up neither
//! the control thread nor the others. Who asks waits for the answer, so that operations that depend on each other come in
//! order by themselves.

use crate::boot::failure;
use crate::files;
use parking_lot::{Condvar, Mutex};
use skerry_confine::connection::Sender;
use skerry_control::{FailureKind, FileCall};
use skerry_kernel::run::OutsideFiles;
use skerry_kernel::Kernel;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Operations that are served at once; more wait.
const MAXIMUM_THREADS: usize = 8;
/// How long a thread waits for more work.
const PATIENCE: Duration = Duration::from_secs(2);
const STACK_SIZE: usize = 512 << 10;

/// Makes threads as they are needed.
pub struct FileWorkers {
    kernel: Arc<Kernel>,
    sender: Sender,
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, FileCall)>,
    threads: usize,
    idle: usize,
}

impl FileWorkers {
    pub fn new(kernel: Arc<Kernel>, sender: Sender) -> Arc<FileWorkers> {
        Arc::new(FileWorkers { kernel, sender, queue: Mutex::default(), more: Condvar::new() })
    }

    /// Has the request `id` served and answered.
    pub fn give(self: &Arc<Self>, id: u64, call: FileCall) {
        let mut queue = self.queue.lock();
        queue.waiting.push_back((id, call));
        if queue.idle >= queue.waiting.len() {
            self.more.notify_one();
            return;
        }
        if queue.threads == MAXIMUM_THREADS {
            return;
        }
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("skerry-files".into()).stack_size(STACK_SIZE).spawn(move || this.work());
        match spawned {
            Ok(_) => queue.threads += 1,
            // Those that there are take it in their time; without any it is served here.
            Err(_) if queue.threads > 0 => {}
            Err(_) => {
                let next = queue.waiting.pop_back();
                drop(queue);
                if let Some((id, call)) = next {
                    self.serve(id, call);
                }
            }
        }
    }

    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some((id, call)) = queue.waiting.pop_front() {
                drop(queue);
                self.serve(id, call);
                queue = self.queue.lock();
                continue;
            }
            queue.idle += 1;
            let patience = self.more.wait_for(&mut queue, PATIENCE);
            queue.idle -= 1;
            if patience.timed_out() && queue.waiting.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }

    fn serve(&self, id: u64, call: FileCall) {
        let answer = OutsideFiles::new(&self.kernel)
            .map_err(|errno| failure(FailureKind::Internal, errno))
            .and_then(|outside| files::answer(&outside, call));
        self.sender.reply(id, answer);
    }
}
