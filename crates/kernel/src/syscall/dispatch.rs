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
    let row = table::find(call.number);
    let policy = kernel.policy.get();
    if policy.is_none() && !kernel.trace {
        return serve(context, row);
    }
    if let Some(verdict) = policy.and_then(|policy| policy.before_call(context, row)) {
        return verdict;
    }
    let details = row.and_then(|row| policy.and_then(|policy| policy.details(context, row)));
    let result = serve(context, row);
    if let Some(policy) = policy {
        policy.after_call(context, row, details, &result);
    }
    if let (Some(row), true) = (row, kernel.trace) {
        crate::syscall::trace::report(context, row, &result);
    }
    result
}

fn serve(context: &mut Context, row: Option<&table::Row>) -> Result<u64> {
    let call = context.call;
    match row {
        Some(row) => (row.handler)(context, &call.arguments),
        None => {
            unknown(context, call.number);
            Err(Errno::ENOSYS)
        }
    }
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
