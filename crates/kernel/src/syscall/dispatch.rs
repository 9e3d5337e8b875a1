//! From a call number to its handler.

use super::table;
use crate::{Context, Errno, Result};
use skerry_control::Event;
use std::sync::atomic::Ordering;

/// Serves the context's call. Unknown numbers are ENOSYS, and told once each.
pub(crate) fn dispatch(context: &mut Context) -> Result<u64> {
    let kernel = context.kernel();
    kernel.system_calls.fetch_add(1, Ordering::Relaxed);
    let call = context.call;
    if let Some(verdict) = crate::task::seccomp::before_call(context) {
        return verdict;
    }
    let Some(row) = table::find(call.number) else {
        unknown(context, call.number);
        return Err(Errno::ENOSYS);
    };
    if !kernel.trace {
        return (row.handler)(context, &call.arguments);
    }
    let result = (row.handler)(context, &call.arguments);
    crate::syscall::trace::report(context, row, &result);
    result
}

fn unknown(context: &Context, number: u64) {
    let kernel = context.kernel();
    let mut told = kernel.unknown_calls.lock();
    // A guest can make up numbers: what is remembered is bounded.
    if told.len() < 1024 && told.insert(number) {
        drop(told);
        (kernel.events)(Event::UnknownCall {
            process: context.process().pid() as u32,
            number: number as i64,
            name: format!("system call {number}"),
        });
    }
}
