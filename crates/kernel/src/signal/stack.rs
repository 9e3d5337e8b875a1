//! The alternate stack (sigaltstack(2)).

use super::deliver::is_on_stack;
use super::DISABLED_STACK;
use crate::task::Task;
use crate::{Errno, Result};
use skerry_abi::signal::{SignalStack, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};

/// MINSIGSTKSZ of the x86-64 ABI; what a frame really needs is in AT_MINSIGSTKSZ.
const MINIMUM_SIZE: u64 = 2048;

/// The stack as sigaltstack(2) tells it to code with this stack pointer.
pub(crate) fn describe_stack(task: &Task, stack_pointer: u64) -> SignalStack {
    let mut stack = task.signals.lock().stack;
    let state = if stack.size == 0 {
        SS_DISABLE
    } else if is_on_stack(&stack, stack_pointer) {
        SS_ONSTACK
    } else {
        0
    };
    stack.flags = state | stack.flags & SS_AUTODISARM;
    stack
}

/// EPERM while the caller runs on the present one, EINVAL for unknown flags, ENOMEM for one that is too small.
pub(crate) fn set_stack(task: &Task, stack_pointer: u64, stack: SignalStack) -> Result<()> {
    let mut signals = task.signals.lock();
    if is_on_stack(&signals.stack, stack_pointer) {
        return Err(Errno::EPERM);
    }
    match stack.flags & !SS_AUTODISARM {
        SS_DISABLE => signals.stack = SignalStack { flags: stack.flags, ..DISABLED_STACK },
        0 | SS_ONSTACK if stack.size < MINIMUM_SIZE => return Err(Errno::ENOMEM),
        0 | SS_ONSTACK => signals.stack = SignalStack { flags: stack.flags, _padding: 0, ..stack },
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}
