//! One ring: from what lies in the channel to the answer.

use super::enrol::Enrolment;
use super::places::{Destination, Places};
use super::spin::is_left_to_ring;
use super::worker::{received_last, wakes_at_home, Holder};
use super::{Engine, GuestThread, ThreadState};
use crate::context::{After, Call, ClonePlan, Continuation, Lead, NativePlan};
use crate::fs::file::Transfer;
use crate::ptrace;
use crate::signal::{self, HandlerFrame, Resume, Return};
use crate::task::{self, Dying, Task};
use crate::{marshal, syscall, Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SignalStack};
use skerry_platform::beside;
use skerry_platform::channel::Channel;
use skerry_platform::engine::{NativeCall, NativeKind};
use skerry_platform::layout::{
    self, action, deferred, loan, objects, operation, request, streams, then, CloneOrder, Frame, Operation, Reply, Request,
    CLONE_PROCESS, CLONE_VFORK,
};
use skerry_platform::listener::{went_without, GoesOn, Notification};
use skerry_platform::processor::{current_cpu, nanoseconds_of_ticks};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Host processes that may be dying while nobody waits for them: more would be a way around `--pids`.
const MAXIMUM_LEAVING: usize = 32;

impl Engine {
    /// Serves one ring, which came at `began`. Everything in it is hostile but `tid`, `number` and the arguments, which the
    /// host vouches for.
    pub(super) fn serve(self: &Arc<Self>, holder: &Holder, notification: Notification, began: u64) {
        let refuse = |errno: Errno| {
            holder.door.listener.answer(notification.id, errno.as_return_value());
        };
        if notification.number as u32 == linux::__NR_clone {
            return self.serve_clone(holder, &notification);
        }
        if notification.number as u32 == linux::__NR_prctl {
            // With the only arguments that its filter lets through: to die with us.
            holder.door.listener.let_go_on(notification.id);
            return;
        }
        match notification.arguments[1] {
            layout::DOORBELL_ENROL => self.enrol(holder, &notification),
            layout::DOORBELL_FIRST => self.serve_first(holder, &notification),
            layout::DOORBELL_REQUEST => match self.thread(notification.tid) {
                Some(thread) => {
                    self.places.leave(&thread.standing, notification.arguments[2]);
                    self.serve_rung(holder, &thread, notification.id, None);
                    holder.count_wakes(&thread.after_waking);
                    self.spinner.after_ring(self, &thread, began, holder.is_alone());
                }
                None => refuse(Errno::ESRCH),
            },
            _ => refuse(Errno::EINVAL),
        }
    }

    /// clone(2) itself: let through only when the guest kernel has just asked this very thread to make it, or does so now: the call
    /// that makes a process may be the ring for what asks for it.
    fn serve_clone(self: &Arc<Self>, holder: &Holder, notification: &Notification) {
        let listener = &holder.door.listener;
        let [flags, _, _, certificate, ..] = notification.arguments;
        let thread = self.thread(notification.tid);
        let ordered = thread.as_ref().and_then(|thread| {
            let is_open = |enrolment: &Arc<Enrolment>| enrolment.flags == flags && !enrolment.made.load(Ordering::Acquire);
            thread.state.lock().clone.clone().filter(is_open)
        });
        match (thread, ordered) {
            (Some(thread), None) if flags == CLONE_PROCESS => {
                if self.fork_again(&thread, notification.id, certificate) {
                    return;
                }
                self.serve_rung(holder, &thread, notification.id, Some(certificate));
            }
            (Some(thread), Some(enrolment)) if flags == CLONE_PROCESS => {
                let task = thread.state.lock().task.clone();
                if !task.is_some_and(|task| self.let_fork(holder.door, &task, &enrolment, notification.id, certificate)) {
                    listener.answer(notification.id, Errno::EPERM.as_return_value());
                }
            }
            (Some(thread), Some(enrolment)) if !enrolment.made.swap(true, Ordering::AcqRel) => {
                if enrolment.makes_process() {
                    // It counts from here on, whatever becomes of its maker.
                    holder.door.add_user();
                    thread.space.has_made_process.store(true, Ordering::Release);
                    if thread.children.are_brief() {
                        *enrolment.bound.lock() = thread.bind();
                    }
                }
                listener.let_go_on(notification.id);
            }
            _ => {
                listener.answer(notification.id, Errno::EPERM.as_return_value());
            }
        }
    }

    /// Serves what lies in the thread's channel; `ring` is where its maker waits: in the host's clone(2), if there is a place for
    /// a certificate.
    pub(super) fn serve_rung(
        self: &Arc<Self>,
        lead: &dyn Lead,
        thread: &Arc<GuestThread>,
        ring: u64,
        certificate: Option<u64>,
    ) {
        self.look_at_births();
        let (request, begun) = {
            let mut state = thread.state.lock();
            // With the lock held, nobody of ours writes there.
            let (request, is_request) = thread.channel.request();
            let begun = state.begin_rung(&thread.channel, request.sequence, is_request, ring);
            state.certificate = certificate;
            (request, begun)
        };
        match begun {
            Begin::Serve(Some(task)) => self.serve_task(lead, thread, &task, &request),
            Begin::Serve(None) if request.kind == request::IDLE => self.pool.add(thread.clone()),
            Begin::Serve(None) => self.answer(thread, Reply { action: action::EXIT_PROCESS, ..Reply::default() }),
            Begin::GoOn(task, plan) => self.go_on_rung(lead, thread, &task, *plan),
            Begin::AnswerRing(value) => self.end_ring(thread, ring, certificate, value),
            Begin::Nothing => {}
        }
    }

    /// Serves the request that was seen in the thread's channel, if nobody else does; its maker spins. False: it rings.
    pub(super) fn serve_seen(self: &Arc<Self>, lead: &dyn Lead, thread: &Arc<GuestThread>) -> bool {
        self.look_at_births();
        let (request, task) = {
            let mut state = thread.state.lock();
            // What was seen may have been rung for, served and followed by another one meanwhile.
            let (request, is_request) = thread.channel.request();
            if request.rings || !is_request {
                return false;
            }
            thread.channel.fetch_marshalled(request.marshalled);
            let must_ring = request.kind & !request::OFTEN_TRAPPED == request::SYSCALL
                && (is_left_to_ring(request.number) || thread.must_ring.takes(&request));
            match state.begin_seen(&thread.channel, request.sequence, must_ring) {
                Some(task) => (request, task),
                None => return false,
            }
        };
        self.serve_task(lead, thread, &task, &request);
        true
    }

    /// The thread has rung, as it was asked to, so that descriptors can be given to it.
    fn go_on_rung(self: &Arc<Self>, lead: &dyn Lead, thread: &Arc<GuestThread>, task: &Arc<Task>, plan: NativePlan) {
        let mut context = Context::new(task, lead, Call::default());
        if let Err(errno) = self.ask_native(thread, &context, plan) {
            self.finish(thread, &mut context, Some(Err(errno)));
        }
    }

    fn serve_task(self: &Arc<Self>, lead: &dyn Lead, thread: &Arc<GuestThread>, task: &Arc<Task>, request: &Request) {
        task.in_kernel.store(true, Ordering::Release);
        task.kernel().mounts.dentries.board.look();
        if task.traced.load(Ordering::Acquire) {
            ptrace::request_came(task, thread.channel.detail().shown);
        }
        let call = Call { number: request.number, arguments: request.arguments, ..Call::default() };
        if request.kind & !request::OFTEN_TRAPPED == request::SYSCALL {
            self.look_at_births_before(task, request.number);
            self.find_infants_before(lead, request.number);
        }
        let mut context = Context::of_channel(task, lead, call, &thread.channel);
        let has_trapped_often = request.kind == request::SYSCALL | request::OFTEN_TRAPPED;
        let kind = request.kind & !request::OFTEN_TRAPPED;
        let (watch, _ended) = self.loans.before(thread, &context, kind);
        context.watch = Some(watch);
        if kind == request::SYSCALL || kind == request::CHANGED {
            context.may_carry_operations = kind == request::SYSCALL;
            if request.marshalled != 0 {
                let mut inputs = marshal::take_buffer();
                thread.channel.copy_marshalled(request.marshalled, &mut inputs);
                syscall::carry_out_deferred(&mut context, &inputs);
                if self.marshalling.load(Ordering::Relaxed) {
                    context.set_marshalled(inputs);
                }
            }
            // Behind what was put off before: the call is made anew.
            if has_trapped_often && self.patch_late(thread, &context) {
                return;
            }
        }
        let result = match kind {
            // The stub makes it, but has told of the traps first.
            request::SYSCALL if has_trapped_often && syscall::table::is_native(request.number) => {
                Some(Err(Errno::ERESTARTNOINTR))
            }
            request::SYSCALL => {
                let result = syscall::dispatch(&mut context);
                context.watch = Some(self.loans.behind(watch, thread, &context));
                Some(result)
            }
            request::CHANGED => {
                changed_where_lent(&context);
                Some(Ok(0))
            }
            request::KICKED => {
                thread.state.lock().frame = None;
                signal::look_again(task);
                match Errno(thread.channel.detail().status as i32) {
                    errno @ (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTARTNOINTR) => Some(Err(errno)),
                    _ => None,
                }
            }
            request::FAULT => {
                let fault = thread.channel.detail();
                let signal =
                    Signal::new(fault.fault_signal).filter(|signal| is_synchronous(*signal)).unwrap_or(Signal::SIGSEGV);
                if signal == Signal::SIGTRAP && task.traced.load(Ordering::Acquire) {
                    ptrace::watch::trapped(task);
                }
                signal::force_signal(task, SignalInfo::fault(signal, fault.fault_code, fault.fault_address));
                None
            }
            request::STEPS => {
                ptrace::watch::about_to_step(task);
                None
            }
            request::CALL_BEGINS => match ptrace::call_begins(&mut context) {
                Some(reply) => return self.answer(thread, reply),
                None => return self.end(thread, &context),
            },
            request::CALL_ENDS => None,
            request::NATIVE_DONE => {
                let status = thread.channel.detail().status;
                return self.native_done(thread, context, status);
            }
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
        let result = match (continuation, clone) {
            // An order whose result need not be told stands until its child has come, while the thread is in later calls.
            (Some(continuation), _) => continuation(&mut context, status),
            (None, Some(enrolment)) => return self.clone_done(thread, context, enrolment, status),
            // Nothing was asked for: the thread makes things up.
            (None, None) => Err(Errno::EINVAL),
        };
        self.finish(thread, &mut context, Some(result));
    }

    /// The way out of a call: what the thread is told to do next.
    pub(super) fn finish(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &mut Context, result: Option<Result<u64>>) {
        let result = match (context.has_results(), &context.after) {
            (false, _) | (_, After::Replaced(_)) => result,
            (true, After::Nothing) if !context.task.is_interrupted() => result,
            // It may not return now, or only after something else.
            _ => context.write_results().map_or_else(|errno| Some(Err(errno)), |()| result),
        };
        let result = match (std::mem::take(&mut context.after), result) {
            (After::Native(plan), Some(Ok(_))) => match self.ask_native(thread, context, *plan) {
                Ok(()) => return,
                Err(errno) => Some(Err(errno)),
            },
            (After::Clone(plan), Some(Ok(_))) => match self.ask_clone(thread, context, &plan) {
                Ok(()) => return,
                Err(errno) => {
                    task::discard_clone(&plan.child);
                    Some(Err(errno))
                }
            },
            (After::Replaced(beginning), _) => {
                if let Some(beginning) = beginning {
                    beginning.begin(self, context);
                }
                return;
            }
            (After::Run { entry, stack }, _) => {
                let reply = match signal::prepare_return(context, None) {
                    Return::Gone => return self.end(thread, context),
                    _ => Reply { action: action::RUN, value: context.task.tid().into(), entry, stack, ..Reply::default() },
                };
                return self.answer(thread, reply);
            }
            (After::Gone, _) => return self.end(thread, context),
            (_, result) => result,
        };
        let reply = match signal::prepare_return(context, result) {
            Return::Value(value) => return self.answer(thread, self.value_reply(thread, context, value)),
            // A wait for some time is made again for the rest of it.
            Return::Restart => Reply { action: action::RESTART, value: nanoseconds_of_ticks() as i64, ..Reply::default() },
            Return::AsIs => Reply { action: action::AS_IS, value: nanoseconds_of_ticks() as i64, ..Reply::default() },
            Return::Handler { resume, frame } => {
                let reply = handler_reply(resume);
                thread.channel.put_frame(&channel_frame(&frame));
                thread.state.lock().frame = Some(frame);
                reply
            }
            Return::Show { resume, entry } => {
                let (resume, value) = resume_words(resume);
                Reply { action: action::SHOW, resume, value, entry, ..Reply::default() }
            }
            Return::Gone => {
                let _ = context.write_results();
                return self.end(thread, context);
            }
        };
        // A signal has come meanwhile. As above.
        let _ = context.write_results();
        self.answer(thread, reply);
    }

    /// The call returns `value`, after what is to be done for direct descriptors.
    fn value_reply(&self, thread: &Arc<GuestThread>, context: &mut Context, value: i64) -> Reply {
        self.lend_events(thread, context);
        let operations = self.direct_operations(thread, context, value);
        if operations.is_empty() {
            let results = context.take_results(|results| thread.channel.put_results(results));
            let entry = if may_defer(thread, context) {
                deferred::GRANTED
            } else if self.lend_object(thread, context) {
                objects::LENT
            } else {
                match self.lend(thread, context, value, results) {
                    0 if self.lend_streams(thread, context) => streams::LENT,
                    lent => lent,
                }
            };
            return Reply { action: action::RETURN, value, results: results as u32, entry, ..Reply::default() };
        }
        // What has become unwritable since the call began is the caller's own doing.
        let _ = context.write_results();
        if !thread.channel.put_operations(&operations) {
            return Reply { action: action::RETURN, value, ..Reply::default() };
        }
        Reply { action: action::NATIVE, operations: operations.len() as u32, ..Reply::default() }
    }

    /// The thread is not to run guest code any more.
    fn end(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &Context) {
        let task = context.task;
        let process = task.process();
        let whole_process = process.signals.lock().group_exit.is_some();
        if whole_process {
            let is_alone = process.threads.lock().iter().all(|other| Arc::ptr_eq(other, task));
            let may_leave = is_alone && !thread.must_be_seen_dead(task) && {
                if self.leaving.load(Ordering::Acquire) >= MAXIMUM_LEAVING {
                    self.bury_left(usize::MAX);
                }
                self.leaving.load(Ordering::Acquire) < MAXIMUM_LEAVING
            };
            if !may_leave {
                task::kill_host(process);
                return self.answer(thread, Reply { action: action::EXIT_PROCESS, ..Reply::default() });
            }
            let dying = Dying::new(thread.process.clone());
            self.leave(&thread.process, &dying);
            return task::host_leaves(task, dying);
        }
        task::robust::release(task);
        // Who gets its channel next may have other descriptors.
        thread.objects.end();
        thread.events.end();
        let action = if self.park(thread, task, context.call.number) {
            action::PARK
        } else {
            self.threads.write().remove(&thread.host.tid);
            thread.retired.store(true, Ordering::Release);
            action::EXIT_THREAD
        };
        task::thread_gone(task);
        self.answer(thread, Reply { action, ..Reply::default() });
    }

    /// Publishes a reply, and ends the ring if its thread has rung.
    pub(super) fn answer(&self, thread: &GuestThread, reply: Reply) {
        let ring = {
            let mut state = thread.state.lock();
            if state.is_held {
                state.held_back = Some(reply);
                return;
            }
            thread.channel.put_reply(state.sequence, &reply);
            state.in_service = false;
            state.reply = Some(reply);
            state.ring.take().map(|ring| (ring, state.certificate.take()))
        };
        if let Some((ring, certificate)) = ring {
            let goes_on = !matches!(reply.action, action::PARK | action::EXIT_THREAD | action::EXIT_PROCESS);
            let listener = &thread.listener.listener;
            let here = current_cpu();
            let choice = if received_last(ring) {
                self.places.choose(&thread.standing, here)
            } else {
                Places::has_waited(&thread.standing);
                if wakes_at_home() {
                    Destination::Anywhere
                } else {
                    Destination::Here
                }
            };
            if certificate.is_some() || thread.undelivered.lock().is_some() {
                return self.end_ring(thread, ring, certificate, 0);
            }
            match choice {
                Destination::Here if goes_on => self.places.enter(&thread.standing, here),
                Destination::Over(cpu) if goes_on && self.spinner.has_idle_cpu() && take_over(thread, cpu) => {
                    self.places.enter(&thread.standing, cpu)
                }
                Destination::Back(cpu) if goes_on => self.places.enter(&thread.standing, cpu),
                _ => {}
            }
            match choice {
                Destination::Here => listener.answer(ring, 0),
                _ => listener.answer_at_home(ring, 0),
            };
            if let Destination::Back(cpu) = choice {
                thread.listener.follow(cpu);
            }
        }
    }

    /// Ends a ring: with the channel, if its thread has none yet, or as what the host's clone(2) returns.
    fn end_ring(&self, thread: &GuestThread, ring: u64, certificate: Option<u64>, value: i64) {
        let lacks_channel = thread.undelivered.lock().is_some();
        if lacks_channel {
            if self.deliver(thread, ring, GoesOn::Here).is_err() {
                thread.process.kill();
            }
            return;
        }
        let value = if certificate.is_some() { layout::FORK_ANSWERED } else { value };
        thread.listener.listener.answer(ring, value);
    }

    /// Has the application make host calls itself.
    pub(super) fn ask_native(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &Context, plan: NativePlan) -> Result<()> {
        let injects = plan.calls.iter().any(|call| call.descriptor.is_some());
        let ring = {
            let mut state = thread.state.lock();
            if injects && state.ring.is_none() {
                // Descriptors can be given to a thread that has rung only.
                state.when_rung = Some(Box::new(plan));
                thread.channel.put_reply(state.sequence, &Reply { action: action::RING, ..Reply::default() });
                return Ok(());
            }
            state.ring
        };
        // Whether the ring's answer has brought a descriptor is not to be seen where other threads may have others just then.
        let rings_alone = thread.undelivered.lock().is_none() && thread.state.lock().certificate.is_none();
        let keep_last = rings_alone && self.zygote.features().addfd_send && context.process().threads.lock().len() == 1;
        let (mut operations, last) = self.inject_all(thread, ring, &plan.calls, keep_last)?;
        if let Some(value) = plan.value {
            operations.push(Operation { kind: operation::VALUE, arguments: [value, 0, 0, 0, 0, 0], ..Operation::default() });
        }
        if !thread.channel.put_operations(&operations) {
            return Err(Errno::ENOMEM);
        }
        let mut continuation = plan.then;
        let then = if continuation.is_some() && plan.value.is_none() {
            then::ALWAYS
        } else if !signal::try_leave(context.task) {
            // A signal is to be looked at afterwards.
            continuation.get_or_insert_with(|| {
                Box::new(|_, result| if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as u64) })
            });
            then::ALWAYS
        } else if continuation.is_some() {
            then::AFTER_AN_ERROR
        } else {
            then::NEVER
        };
        thread.state.lock().continuation = continuation;
        let entry = if then == then::NEVER { self.lend(thread, context, 0, 0) } else { 0 };
        let reply = Reply { action: action::NATIVE, operations: operations.len() as u32, then, entry, ..Reply::default() };
        match last {
            Some(descriptor) => {
                let descriptor = descriptor.clone();
                let again = NativePlan { calls: plan.calls, then: None, value: plan.value };
                self.answer_with_descriptor(thread, reply, descriptor.as_fd(), again)
            }
            None => {
                self.answer(thread, reply);
                Ok(())
            }
        }
    }

    /// As [`Engine::answer`] to a thread that has rung, with a descriptor that the ring returns: one switch to the thread
    /// instead of two, and one back. After an error the call is still in service. A thread that goes on without the descriptor
    /// rings again, and is asked to carry out `again` with the same continuation.
    fn answer_with_descriptor(
        &self,
        thread: &GuestThread,
        reply: Reply,
        descriptor: BorrowedFd,
        again: NativePlan,
    ) -> Result<()> {
        // Held until it is there: the thread's next request comes after what is written here, or there is none.
        let mut state = thread.state.lock();
        let ring = state.ring.ok_or(Errno::ESRCH)?;
        thread.channel.put_reply(state.sequence, &reply);
        let number = match thread.listener.listener.answer_with_descriptor(ring, descriptor) {
            Ok(number) => number,
            Err(error) if went_without(&error) => {
                let then = state.continuation.take();
                state.when_rung = Some(Box::new(NativePlan { then, ..again }));
                state.ring = None;
                return Ok(());
            }
            Err(_) => {
                // Its table is full, or it is gone.
                state.continuation = None;
                return Err(Errno::ENFILE);
            }
        };
        thread.process.was_given(number);
        state.in_service = false;
        state.reply = Some(reply);
        state.ring = None;
        Ok(())
    }

    /// Puts the descriptors that `calls` need into the application, each once, and closes them behind the last call. With
    /// `keep_last` the last one is left for the answer to bring.
    fn inject_all<'a>(
        &self,
        thread: &GuestThread,
        ring: Option<u64>,
        calls: &'a [NativeCall],
        keep_last: bool,
    ) -> Result<(Vec<Operation>, Option<&'a Arc<OwnedFd>>)> {
        let last = calls.iter().filter_map(|call| call.descriptor.as_ref()).next_back().map(|(_, descriptor)| descriptor);
        let kept = last.filter(|_| keep_last);
        let mut injected: Vec<(*const OwnedFd, i32)> = Vec::new();
        let mut operations = Vec::with_capacity(calls.len() + 2);
        let mut failed = false;
        for call in calls {
            let kind = match call.kind {
                NativeKind::Call => operation::CALL,
                NativeKind::Zero => operation::ZERO,
                NativeKind::OverLast => operation::OVER_LAST,
                NativeKind::Expect => operation::EXPECT,
            };
            let mut one = Operation { kind, number: call.number, arguments: call.arguments };
            if let Some((index, _)) =
                call.descriptor.as_ref().filter(|(_, one)| kept.is_some_and(|kept| Arc::ptr_eq(one, kept)))
            {
                one.kind |= operation::INJECTED | (*index as u64) << operation::ARGUMENT;
            } else if let Some((index, descriptor)) = &call.descriptor {
                let known = injected.iter().find(|(pointer, _)| *pointer == Arc::as_ptr(descriptor)).map(|(_, number)| *number);
                let number = match known {
                    Some(number) => number,
                    None => match ring.map(|ring| thread.listener.listener.inject(ring, descriptor.as_fd())) {
                        Some(Ok(number)) => {
                            thread.process.was_given(number);
                            injected.push((Arc::as_ptr(descriptor), number));
                            number
                        }
                        Some(Err(_)) | None => {
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
        if kept.is_some() {
            let kind = operation::ALWAYS | operation::INJECTED;
            operations.push(Operation { kind, number: linux::__NR_close.into(), arguments: [0; 6] });
        }
        // With nothing but closes left the call has failed for want of a descriptor; a leak there is the process's own.
        if failed {
            return Err(Errno::ENFILE);
        }
        Ok((operations, kept))
    }

    /// Has a fresh process make `calls`, lay down what is on its `stack`, unless that is there, and start its program when they went
    /// well; else it ends.
    pub(super) fn run_program(
        self: &Arc<Self>,
        thread: &Arc<GuestThread>,
        context: &mut Context,
        calls: &[NativeCall],
        entry: u64,
        stack: u64,
        laid_down: &[u8],
    ) -> Result<()> {
        let ring = thread.state.lock().ring;
        let (mut operations, _) = self.inject_all(thread, ring, calls, false)?;
        thread.channel.put_results(laid_down);
        operations.push(Operation {
            kind: operation::COPY,
            arguments: [stack, laid_down.len() as u64, 0, 0, 0, 0],
            ..Operation::default()
        });
        if !thread.channel.put_operations(&operations) {
            return Err(Errno::ENOMEM);
        }
        match signal::prepare_return(context, None) {
            Return::Gone => self.end(thread, context),
            _ => {
                let (operations, value) = (operations.len() as u32, context.task.tid().into());
                context.task.tell_heap(Some(*thread.space.brk.lock()));
                let lent = (self.lend(thread, context, Errno::ENOENT.as_return_value(), laid_down.len()) == loan::LENT).into();
                let reply = Reply { action: action::RUN, value, operations, entry, stack, results: lent, ..Reply::default() };
                self.answer(thread, reply);
            }
        }
        Ok(())
    }

    fn ask_clone(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &Context, plan: &ClonePlan) -> Result<()> {
        let tid = plan.child.tid() as u64;
        // What the child has, too.
        thread.space.heap(context.task);
        let (order, enrolment) = match self.use_parked(thread, plan) {
            Some(order) => (order, None),
            None => {
                let (enrolment, slot) = Enrolment::prepare(self, thread, plan)?;
                (CloneOrder { slot, token: enrolment.token, ..plan.order() }, Some(enrolment))
            }
        };
        // Who has lent its memory waits until the child has presented itself.
        let is_traced = context.task.traced.load(Ordering::Acquire);
        let then = plan.host_flags == CLONE_VFORK || plan.vfork || is_traced || !signal::try_leave(context.task);
        if plan.host_flags != CLONE_PROCESS {
            // From now on another one can move it.
            context.task.tell_heap(None);
        }
        if let Some(enrolment) = enrolment.as_ref() {
            enrolment.reports.store(then, Ordering::Release);
            if enrolment.infant.is_some() && self.fork_now(thread, context.task, enrolment, tid) {
                return Ok(());
            }
        }
        {
            let mut state = thread.state.lock();
            state.continuation = enrolment.is_none().then(|| Box::new(move |_: &mut Context, _| Ok(tid)) as Continuation);
            state.clone = enrolment;
        }
        thread.channel.put_clone(&order);
        self.answer(thread, Reply { action: action::CLONE, then: then.into(), ..Reply::default() });
        Ok(())
    }

    /// A host's signal has come between our letting the thread make a process and the host's doing so: it asks for the same again. As
    /// nobody can be sure of that, it makes the call anew, and the process that was let through is looked for.
    fn fork_again(&self, thread: &GuestThread, ring: u64, certificate: u64) -> bool {
        let enrolment = {
            let mut state = thread.state.lock();
            let (request, is_request) = thread.channel.request();
            // The answer to a request that was let through lies in its place.
            if is_request || state.in_service || request.sequence != state.sequence {
                return false;
            }
            let is_made = |enrolment: &mut Arc<Enrolment>| enrolment.infant.is_some() && enrolment.made.load(Ordering::Acquire);
            let Some(enrolment) = state.clone.take_if(is_made) else { return false };
            let reply = Reply { action: action::RESTART, ..Reply::default() };
            thread.channel.put_reply(state.sequence, &reply);
            state.reply = Some(reply);
            enrolment
        };
        self.fork_failed(enrolment);
        self.end_ring(thread, ring, Some(certificate), 0);
        true
    }

    /// Lets the thread make the process, if it is in the host's clone(2) with its request. What the call returns is there for it.
    fn fork_now(&self, thread: &Arc<GuestThread>, task: &Task, enrolment: &Arc<Enrolment>, child_tid: u64) -> bool {
        let (ring, certificate) = {
            let mut state = thread.state.lock();
            let (Some(ring), Some(certificate)) = (state.ring, state.certificate) else { return false };
            if state.is_held {
                // It is to wait, behind its request, until it is let go.
                return false;
            }
            let reply = Reply { action: action::RETURN, value: child_tid as i64, ..Reply::default() };
            thread.channel.put_reply(state.sequence, &reply);
            (state.ring, state.certificate, state.in_service) = (None, None, false);
            state.reply = Some(reply);
            state.continuation = None;
            state.clone = Some(enrolment.clone());
            (ring, certificate)
        };
        if !self.let_fork(&thread.listener, task, enrolment, ring, certificate) {
            // It says so, as of an error of the host's.
            thread.listener.listener.answer(ring, Errno::EFAULT.as_return_value());
        }
        true
    }
}

/// Takes the thread, which has rung, over to the CPU `cpu`; unless where it runs has been chosen for it (sched_setaffinity(2), which waits
/// for this).
fn take_over(thread: &GuestThread, cpu: u32) -> bool {
    let Some(task) = thread.state.lock().task.clone() else { return false };
    let scheduling = task.scheduling.read();
    let may_move = scheduling.affinity.is_none();
    if may_move {
        beside::take_over(thread.host.tid, cpu);
    }
    may_move
}

/// Nobody but the caller sees the epoll and the descriptors (nor the calls: traces, guest filters).
fn may_defer(thread: &GuestThread, context: &Context) -> bool {
    context.may_be_deferred
        && thread.acts_unseen(context)
        && context.process().threads.lock().len() == 1
        // The task's, and ours.
        && Arc::strong_count(&context.task.files()) == 2
}

/// The thread has read or written by itself what is lent to it, and somebody waits for that. It could have made that call here, if it
/// has such a descriptor.
fn changed_where_lent(context: &Context) {
    let direction = match context.call.number as u32 {
        linux::__NR_read | linux::__NR_recvfrom | linux::__NR_readv | linux::__NR_recvmsg => Transfer::Read,
        linux::__NR_write | linux::__NR_sendto | linux::__NR_writev | linux::__NR_sendmsg => Transfer::Write,
        _ => return,
    };
    if let Ok(file) = context.task.files().get(context.call.arguments[0] as i32) {
        file.operations.changed_where_lent(direction);
    }
}

fn is_synchronous(signal: Signal) -> bool {
    matches!(signal, Signal::SIGILL | Signal::SIGTRAP | Signal::SIGBUS | Signal::SIGFPE | Signal::SIGSEGV)
}

fn resume_words(resume: Resume) -> (u32, i64) {
    match resume {
        Resume::Value(value) => (action::RETURN, value),
        Resume::Restart => (action::RESTART, 0),
        Resume::AsIs => (action::AS_IS, 0),
    }
}

fn handler_reply(resume: Resume) -> Reply {
    let (resume, value) = resume_words(resume);
    Reply { action: action::HANDLER, resume, value, ..Reply::default() }
}

fn channel_frame(frame: &HandlerFrame) -> Frame {
    let mut signal_info = [0u64; 16];
    signal_info.as_mut_bytes().copy_from_slice(frame.info.as_bytes());
    let saved = frame.saved_stack;
    Frame {
        handler: frame.action.handler,
        restorer: frame.action.restorer,
        mask: frame.saved_mask.0,
        stack_top: frame.stack_top.unwrap_or(0),
        saved_stack: layout::SignalStack { base: saved.base, flags: saved.flags, _padding: 0, size: saved.size },
        signal_info,
        more: 1,
    }
}

/// What is to be done with what lies in a channel.
enum Begin {
    Serve(Option<Arc<Task>>),
    /// The ring that the call in service needs is here.
    GoOn(Arc<Task>, Box<NativePlan>),
    /// The ring's answer is known already.
    AnswerRing(i64),
    Nothing,
}

impl ThreadState {
    /// Takes on the request `sequence` for a ring, unless it is in service or answered. Both a ring and somebody who
    /// watches the channel may bring the same one; what counts is what is written here, whatever the channel says.
    fn begin_rung(&mut self, channel: &Channel, sequence: u32, is_request: bool, ring: u64) -> Begin {
        let again = sequence == self.sequence;
        if !again && self.in_service {
            // Two calls of one thread at once: only a program that has taken its stub over can ask for that.
            return Begin::AnswerRing(Errno::EBUSY.as_return_value());
        }
        if !again && !is_request {
            // It was told to ring while it did so already, and that lies in the request's place.
            return Begin::AnswerRing(0);
        }
        if !again {
            self.begin(sequence, Some(ring));
            return Begin::Serve(self.task.clone());
        }
        if !self.in_service {
            if let Some(reply) = &self.reply {
                channel.put_reply(sequence, reply);
            }
            return Begin::AnswerRing(0);
        }
        // Its first ring was aborted by the host, or it has spun in vain; whoever serves the request answers this one.
        self.ring = Some(ring);
        match (self.when_rung.take(), &self.task) {
            (Some(plan), Some(task)) => Begin::GoOn(task.clone(), plan),
            _ => Begin::Nothing,
        }
    }

    /// The same for a request that was seen; where it `must_ring`, its maker is told so.
    fn begin_seen(&mut self, channel: &Channel, sequence: u32, must_ring: bool) -> Option<Arc<Task>> {
        if sequence == self.sequence || self.in_service {
            return None;
        }
        let task = self.task.clone()?;
        if must_ring {
            channel.put_reply(sequence, &Reply { action: action::RING, ..Reply::default() });
            return None;
        }
        self.begin(sequence, None);
        Some(task)
    }

    fn begin(&mut self, sequence: u32, ring: Option<u64>) {
        if let Some(first_run) = self.first_run.take() {
            first_run.end();
        }
        if let Some(infant) = self.clone.as_ref().and_then(|enrolment| enrolment.infant.as_ref()) {
            infant.maker_goes_on();
        }
        self.sequence = sequence;
        self.in_service = true;
        self.reply = None;
        self.ring = ring;
    }
}
