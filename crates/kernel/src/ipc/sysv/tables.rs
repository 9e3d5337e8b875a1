//! The rows of /proc/sysvipc (sysvipc(7)), in Linux's own columns.

use crate::Kernel;
use std::fmt::Write;

/// /proc/sysvipc/msg, without its heading.
pub fn messages(kernel: &Kernel) -> String {
    let mut text = String::new();
    for (id, queue) in kernel.sysv.queues.list() {
        let shown = queue.to_struct();
        let who = shown.permission;
        let _ = writeln!(
            text,
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            who.key,
            id,
            who.mode,
            shown.bytes,
            shown.count,
            shown.last_sender,
            shown.last_receiver,
            who.uid,
            who.gid,
            who.creator_uid,
            who.creator_gid,
            shown.send_time,
            shown.receive_time,
            shown.change_time
        );
    }
    text
}

/// /proc/sysvipc/sem, without its heading.
pub fn semaphores(kernel: &Kernel) -> String {
    let mut text = String::new();
    for (id, set) in kernel.sysv.semaphores.list() {
        let shown = set.to_struct();
        let who = shown.permission;
        let _ = writeln!(
            text,
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            who.key,
            id,
            who.mode,
            shown.count,
            who.uid,
            who.gid,
            who.creator_uid,
            who.creator_gid,
            shown.operation_time,
            shown.change_time
        );
    }
    text
}

/// /proc/sysvipc/shm, without its heading. All of a segment counts as resident.
pub fn segments(kernel: &Kernel) -> String {
    let mut text = String::new();
    for (id, segment) in kernel.sysv.segments.list() {
        let shown = segment.to_struct();
        let who = shown.permission;
        let _ = writeln!(
            text,
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            who.key,
            id,
            who.mode,
            shown.size,
            shown.creator,
            shown.last,
            shown.attached,
            who.uid,
            who.gid,
            who.creator_uid,
            who.creator_gid,
            shown.attach_time,
            shown.detach_time,
            shown.change_time,
            segment.mapped_size(),
            0
        );
    }
    text
}
