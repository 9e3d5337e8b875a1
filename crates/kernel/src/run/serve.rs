//! One ring: from what lies in the channel to the answer.

use super::enrol::Enrolment;
use super::worker::Holder;
use super::{Engine, GuestThread};
use crate::context::{After, Call, NativePlan};
use crate::signal::{self, HandlerFrame, Resume, Return};
use crate::task::{self, Task};
use crate::{syscall, Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SignalStack};
use skerry_platform::engine::{NativeCall, NativeKind};
use skerry_platform::layout::{self, action, operation, request, CloneOrder, Frame, Operation, Reply, Request};
use skerry_platform::listener::Notification;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use zerocopy::IntoBytes;

impl Engine {
    /// Serves one ring. Everything in it is hostile but `tid`, `number` and the arguments, which the host vouches for.
    pub(super) fn serve(self: &Arc<Self>, holder: &Holder, notification: Notification) {
        let refuse = |errno: Errno| {
            holder.door.listener.answer(notification.id, errno.as_return_value());
        };
        if notification.number as u32 == linux::__NR_clone {
            return self.serve_clone(holder, &notification);
        }
        match notification.arguments[1] {
            layout::DOORBELL_ENROL => self.enrol(holder, &notification),
            layout::DOORBELL_REQUEST => match self.thread(notification.tid) {
                Some(thread) => self.serve_request(holder, &thread, notification.id),
                None => refuse(Errno::ESRCH),
            },
            _ => refuse(Errno::EINVAL),
        }
    }

    /// clone(2) itself: let through only when the guest kernel has just asked this very thread to make it.
    fn serve_clone(&self, holder: &Holder, notification: &Notification) {
        let listener = &holder.door.listener;
        let ordered = self.thread(notification.tid).and_then(|thread| thread.state.lock().clone.clone());
        match ordered {
            Some(enrolment) if enrolment.flags == notification.arguments[0] && !enrolment.made.swap(true, Ordering::AcqRel) => {
                listener.let_go_on(notification.id);
            }
            _ => {
                listener.answer(notification.id, Errno::EPERM.as_return_value());
            }
        }
    }

    fn serve_request(self: &Arc<Self>, holder: &Holder, thread: &Arc<GuestThread>, ring: u64) {
        let request = thread.channel.request();
        let task = {
            let mut state = thread.state.lock();
            let again = request.sequence == state.sequence;
            if !again && state.in_service {
                // Two calls of one thread at once: only a program that has taken its stub over can ask for that.
                thread.listener.listener.answer(ring, Errno::EBUSY.as_return_value());
                return;
            }
            state.ring = ring;
            if again && state.in_service {
                // Its first ring was aborted by the host; whoever serves the request answers this one.
                return;
            }
            if again {
                if let Some(reply) = &state.reply {
                    thread.channel.put_reply(reply);
                }
                drop(state);
                thread.listener.listener.answer(ring, 0);
                return;
            }
            state.sequence = request.sequence;
            state.in_service = true;
            state.reply = None;
            state.task.clone()
        };
        match task {
            Some(task) => self.serve_task(holder, thread, &task, &request),
            None if request.kind == request::IDLE => self.pool.add(thread.clone()),
            None => self.answer(thread, Reply { action: action::EXIT_PROCESS, ..Reply::default() }),
        }
    }

    fn serve_task(self: &Arc<Self>, holder: &Holder, thread: &Arc<GuestThread>, task: &Arc<Task>, request: &Request) {
        task.in_kernel.store(true, Ordering::Release);
        let call = Call {
            number: request.number,
            arguments: request.arguments,
            instruction_pointer: request.instruction_pointer,
            stack_pointer: request.stack_pointer,
        };
        let mut context = Context::new(task, holder, call);
        let result = match request.kind {
            request::SYSCALL => Some(syscall::dispatch(&mut context)),
            request::KICKED => {
                thread.state.lock().frame = None;
                match Errno(request.status as i32) {
                    errno @ (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND) => Some(Err(errno)),
                    _ => None,
                }
            }
            request::FAULT => {
                let signal = Signal::new(request.fault_signal).filter(|signal| is_synchronous(*signal)).unwrap_or(Signal::SIGSEGV);
                signal::force_signal(task, SignalInfo::fault(signal, request.fault_code, request.fault_address));
                None
            }
            request::NATIVE_DONE => return self.native_done(thread, context, request.status),
            request::SIGNAL_RETURN => {
                let [mask, base, flags, size, ..] = request.arguments;
                let stack = SignalStack { base, flags: flags as i32, _padding: 0, size };
                signal::after_signal_return(&mut context, SignalSet(mask), stack);
                None
            }
            _ => {
                // Of a handler's frame that could not be written, or of rt_sigreturn's that could not be read.
                let frame = thread.state.lock().frame.take();
                match frame {
                    Some(frame) => signal::frame_failed(&mut context, &frame),
                    None => signal::force_signal(task, SignalInfo::kernel(Signal::SIGSEGV)),
                }
                None
            }
        };
        self.finish(thread, &mut context, result);
    }

    fn native_done(self: &Arc<Self>, thread: &Arc<GuestThread>, mut context: Context, status: i64) {
        let (continuation, clone) = {
            let mut state = thread.state.lock();
            (state.continuation.take(), state.clone.take())
        };
        if let Some(enrolment) = clone {
            return self.clone_done(thread, context, enrolment, status);
        }
        let result = match continuation {
            Some(continuation) => continuation(&mut context, status),
            // Nothing was asked for: the thread makes things up.
            None => Err(Errno::EINVAL),
        };
        self.finish(thread, &mut context, Some(result));
    }

    /// The way out of a call: what the thread is told to do next.
    pub(super) fn finish(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &mut Context, result: Option<Result<u64>>) {
        let result = match (std::mem::take(&mut context.after), result) {
            (After::Native(plan), Some(Ok(_))) => match self.ask_native(thread, context, *plan) {
                Ok(()) => return,
                Err(errno) => Some(Err(errno)),
            },
            (After::Clone(plan), Some(Ok(_))) => match self.ask_clone(thread, &plan) {
                Ok(()) => return,
                Err(errno) => {
                    task::discard_clone(&plan.child);
                    Some(Err(errno))
                }
            },
            (After::Replaced, _) => return,
            (After::Run { entry, stack }, _) => {
                let reply = match signal::prepare_return(context, None) {
                    Return::Gone => return self.end(thread, context.task),
                    _ => Reply { action: action::RUN, entry, stack, ..Reply::default() },
                };
                return self.answer(thread, reply);
            }
            (After::Gone, _) => return self.end(thread, context.task),
            (_, result) => result,
        };
        let reply = match signal::prepare_return(context, result) {
            Return::Value(value) => Reply { action: action::RETURN, value, ..Reply::default() },
            Return::Restart => Reply { action: action::RESTART, ..Reply::default() },
            Return::AsIs => Reply { action: action::AS_IS, ..Reply::default() },
            Return::Handler { resume, frame } => {
                let reply = handler_reply(resume, &frame);
                thread.state.lock().frame = Some(frame);
                reply
            }
            Return::Gone => return self.end(thread, context.task),
        };
        self.answer(thread, reply);
    }

    /// The thread is not to run guest code any more.
    fn end(self: &Arc<Self>, thread: &Arc<GuestThread>, task: &Arc<Task>) {
        let whole_process = task.process().signals.lock().group_exit.is_some();
        if whole_process {
            return self.answer(thread, Reply { action: action::EXIT_PROCESS, ..Reply::default() });
        }
        task::robust::release(task);
        self.threads.write().remove(&thread.host.tid);
        task::thread_gone(task);
        self.answer(thread, Reply { action: action::EXIT_THREAD, ..Reply::default() });
    }

    /// Publishes a reply and ends the ring.
    pub(super) fn answer(&self, thread: &GuestThread, mut reply: Reply) {
        let ring = {
            let mut state = thread.state.lock();
            reply.sequence = state.sequence;
            thread.channel.put_reply(&reply);
            state.in_service = false;
            state.reply = Some(reply);
            state.ring
        };
        thread.listener.listener.answer(ring, 0);
    }

    /// Has the application make host calls itself.
    pub(super) fn ask_native(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &Context, plan: NativePlan) -> Result<()> {
        let operations = self.inject_all(thread, &plan.calls)?;
        if !thread.channel.put_operations(&operations) {
            return Err(Errno::ENOMEM);
        }
        let mut continuation = plan.then;
        if continuation.is_none() && !signal::try_leave(context.task) {
            // A signal is to be looked at afterwards.
            continuation = Some(Box::new(|_, result| if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as u64) }));
        }
        let then = continuation.is_some();
        thread.state.lock().continuation = continuation;
        self.answer(
            thread,
            Reply { action: action::NATIVE, operations: operations.len() as u32, then: then as u32, ..Reply::default() },
        );
        Ok(())
    }

    /// Puts the descriptors that `calls` need into the application, each once, and closes them behind the last call.
    fn inject_all(&self, thread: &GuestThread, calls: &[NativeCall]) -> Result<Vec<Operation>> {
        let ring = thread.state.lock().ring;
        let mut injected: Vec<(*const std::os::fd::OwnedFd, i32)> = Vec::new();
        let mut operations = Vec::with_capacity(calls.len() + 2);
        let mut failed = false;
        for call in calls {
            let kind = match call.kind {
                NativeKind::Call => operation::CALL,
                NativeKind::Zero => operation::ZERO,
                NativeKind::OverLast => operation::OVER_LAST,
            };
            let mut one = Operation { kind, number: call.number, arguments: call.arguments };
            if let Some((index, descriptor)) = &call.descriptor {
                let known = injected.iter().find(|(pointer, _)| *pointer == Arc::as_ptr(descriptor)).map(|(_, number)| *number);
                let number = match known {
                    Some(number) => number,
                    None => match thread.listener.listener.inject(ring, descriptor.as_fd()) {
                        Ok(number) => {
                            injected.push((Arc::as_ptr(descriptor), number));
                            number
                        }
                        Err(_) => {
                            failed = true;
                            break;
                        }
                    },
                };
                if let Some(argument) = one.arguments.get_mut(*index) {
                    *argument = number as u64;
                }
            }
            operations.push(one);
        }
        if failed {
            operations.clear();
        }
        for (_, number) in injected {
            operations.push(Operation {
                kind: operation::ALWAYS,
                number: linux::__NR_close.into(),
                arguments: [number as u64, 0, 0, 0, 0, 0],
            });
        }
        // With nothing but closes left the call has failed for want of a descriptor; a leak there is the process's own.
        if failed {
            return Err(Errno::ENFILE);
        }
        Ok(operations)
    }

    fn ask_clone(self: &Arc<Self>, thread: &Arc<GuestThread>, plan: &crate::context::ClonePlan) -> Result<()> {
        let (enrolment, slot) = Enrolment::prepare(self, thread, plan)?;
        let order = CloneOrder {
            flags: enrolment.flags,
            slot,
            token: enrolment.token,
            stack: plan.stack,
            tls: plan.tls,
            clear_child_tid: plan.clear_child_tid,
            set_child_tid: plan.set_child_tid,
            child_tid: plan.child.tid() as u64,
        };
        thread.state.lock().clone = Some(enrolment);
        self.answer(thread, Reply { action: action::CLONE, clone: order, ..Reply::default() });
        Ok(())
    }
}

fn is_synchronous(signal: Signal) -> bool {
    matches!(signal, Signal::SIGILL | Signal::SIGTRAP | Signal::SIGBUS | Signal::SIGFPE | Signal::SIGSEGV)
}

fn handler_reply(resume: Resume, frame: &HandlerFrame) -> Reply {
    let (resume, value) = match resume {
        Resume::Value(value) => (action::RETURN, value),
        Resume::Restart => (action::RESTART, 0),
        Resume::AsIs => (action::AS_IS, 0),
    };
    let mut signal_info = [0u64; 16];
    signal_info.as_mut_bytes().copy_from_slice(frame.info.as_bytes());
    let saved = frame.saved_stack;
    Reply {
        action: action::HANDLER,
        resume,
        value,
        frame: Frame {
            handler: frame.action.handler,
            restorer: frame.action.restorer,
            mask: frame.saved_mask.0,
            stack_top: frame.stack_top.unwrap_or(0),
            saved_stack: layout::SignalStack { base: saved.base, flags: saved.flags, _padding: 0, size: saved.size },
            signal_info,
            more: 1,
        },
        ..Reply::default()
    }
}
