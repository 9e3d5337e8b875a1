//! eventfd(2): a counter that is waited for.

use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags};
use crate::fs::inode::Metadata;
use crate::fs::lending::{Lend, Lender, LentState, Usage};
use crate::sync::WaitQueue;
use crate::{Errno, Result};
use parking_lot::{Mutex, MutexGuard};
use skerry_platform::channel::LentObject;
use skerry_platform::layout::objects;
use std::any::Any;

/// What a read takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The whole counter.
    All,
    /// One (EFD_SEMAPHORE).
    One,
}

/// The counter. It holds at most `u64::MAX - 1`.
pub struct EventFd {
    state: Mutex<State>,
    take: Take,
    queue: WaitQueue,
    usage: Usage,
}

struct State {
    counter: u64,
    /// The counter is with the one thread that uses it.
    lent: Option<Box<dyn Lender>>,
}

impl EventFd {
    pub fn new(initial: u64, take: Take) -> EventFd {
        let state = Mutex::new(State { counter: initial, lent: None });
        EventFd { state, take, queue: WaitQueue::new(), usage: Usage::default() }
    }

    /// The state, with nothing lent any more.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        if let Some(lender) = state.lent.take() {
            let returned = lender.take_back();
            self.usage.note_loan(returned.as_ref().map_or(0, |returned| returned.calls));
            // Nobody waits for either: who does has ended the loan by looking.
            if let Some(LentState::Counter(counter)) = returned.map(|returned| returned.state) {
                state.counter = counter.min(u64::MAX - 1);
            }
        }
        state
    }

    /// Adds to the counter as far as it goes, for signals from inside the kernel.
    pub fn signal(&self, count: u64) {
        {
            let mut state = self.lock();
            state.counter = state.counter.saturating_add(count);
        }
        self.queue.wake_all();
    }
}

impl FileOperations for EventFd {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        let target = buffer.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        let taken = {
            let mut state = self.lock();
            if state.counter == 0 {
                return Err(Errno::EAGAIN);
            }
            let taken = if self.take == Take::One { 1 } else { state.counter };
            state.counter -= taken;
            taken
        };
        *target = taken.to_ne_bytes();
        self.queue.wake_all();
        Ok(8)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        let value = u64::from_ne_bytes(*buffer.first_chunk::<8>().ok_or(Errno::EINVAL)?);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        {
            let mut state = self.lock();
            match state.counter.checked_add(value) {
                Some(sum) if sum < u64::MAX => state.counter = sum,
                _ => return Err(Errno::EAGAIN),
            }
        }
        self.queue.wake_all();
        Ok(8)
    }

    fn poll(&self) -> Events {
        let counter = self.lock().counter;
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, counter > 0);
        events.set(Events::OUT | Events::WRNORM, counter < u64::MAX - 1);
        events.set(Events::ERR, counter == u64::MAX);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn usage(&self) -> Option<&Usage> {
        Some(&self.usage)
    }

    fn lend(&self, _reader: &OpenFile, writer: &OpenFile, lend: Lend) -> bool {
        let mut state = self.lock();
        let is_own = writer.downcast::<EventFd>().is_some_and(|other| std::ptr::eq(other, self));
        if !is_own || state.counter > objects::VALUE || !self.queue.is_empty() {
            return false;
        }
        state.lent = Some(lend(LentObject::EventFd { counter: state.counter, is_semaphore: self.take == Take::One }));
        true
    }

    fn end_loan(&self) {
        drop(self.lock());
    }

    fn flags_changed(&self, _flags: StatusFlags) {
        self.end_loan();
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn fdinfo(&self) -> String {
        format!("eventfd-count: {:16x}\n", self.lock().counter)
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:[eventfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::lending::tests::Says;
    use crate::sync::Waiter;
    use std::sync::atomic::Ordering;
    use std::sync::Arc;

    fn eventfd(initial: u64, take: Take) -> Arc<OpenFile> {
        OpenFile::new(Arc::new(EventFd::new(initial, take)), StatusFlags::RDWR, None)
    }

    fn read(file: &OpenFile) -> Result<u64> {
        let mut buffer = [0; 8];
        file.operations.read(file, &mut buffer, 0).map(|_| u64::from_ne_bytes(buffer))
    }

    fn write(file: &OpenFile, value: u64) -> Result<usize> {
        file.operations.write(file, &value.to_ne_bytes(), 0)
    }

    #[test]
    fn counts_and_empties() {
        let file = eventfd(0, Take::All);
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        write(&file, 3).unwrap();
        write(&file, 4).unwrap();
        assert_eq!(read(&file), Ok(7));
        assert_eq!(file.operations.poll(), Events::OUT | Events::WRNORM);
        assert_eq!(file.operations.write(&file, &[0; 7], 0), Err(Errno::EINVAL));
    }

    #[test]
    fn does_not_overflow() {
        let file = eventfd(1, Take::All);
        assert_eq!(write(&file, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&file, u64::MAX - 1), Err(Errno::EAGAIN));
        assert_eq!(write(&file, u64::MAX - 2), Ok(8));
        assert_eq!(file.operations.poll(), Events::IN | Events::RDNORM);
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let file = eventfd(2, Take::One);
        assert_eq!((read(&file), read(&file), read(&file)), (Ok(1), Ok(1), Err(Errno::EAGAIN)));
    }

    /// Lends it to a stub that gives it back so.
    fn lend(file: &OpenFile, state: Option<LentState>) -> Option<Arc<std::sync::atomic::AtomicU32>> {
        let (says, ended) = Says::new(3, state);
        let mut says = Some(says);
        let is_lent = file.operations.lend(file, file, &mut |_| says.take().unwrap());
        is_lent.then_some(ended)
    }

    #[test]
    fn what_is_lent_comes_back_when_anybody_looks() {
        let file = eventfd(1, Take::All);
        let looks: [fn(&OpenFile); 5] = [
            |file| assert_eq!(read(file), Ok(7)),
            |file| assert_eq!(file.operations.poll(), Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM),
            |file| assert!(file.operations.fdinfo().contains(" 7")),
            |file| file.operations.end_loan(),
            |file| file.set_flags(StatusFlags::RDWR | StatusFlags::NONBLOCK),
        ];
        for look in looks {
            let ended = lend(&file, Some(LentState::Counter(7))).unwrap();
            assert_eq!(ended.load(Ordering::Relaxed), 0);
            look(&file);
            assert_eq!(ended.load(Ordering::Relaxed), 1);
        }
        // Once more ends the one before; of one that was scribbled over nothing counts.
        lend(&file, Some(LentState::Counter(5))).unwrap();
        lend(&file, None).unwrap();
        assert_eq!(read(&file), Ok(5));
        // Never beyond its maximum, whatever is said.
        lend(&file, Some(LentState::Counter(u64::MAX))).unwrap();
        assert_eq!(read(&file), Ok(u64::MAX - 1));
        lend(&file, Some(LentState::Bytes(vec![1; 8]))).unwrap();
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }

    #[test]
    fn nothing_is_lent_that_somebody_waits_for() {
        let file = eventfd(1, Take::All);
        let registration = file.operations.wait_queue().unwrap().register(Waiter::new());
        assert!(lend(&file, None).is_none());
        drop(registration);
        let other = eventfd(1, Take::All);
        assert!(!file.operations.lend(&file, &other, &mut |_| unreachable!()));
        write(&file, 1 << 50).unwrap();
        assert!(lend(&file, None).is_none());
    }
}
