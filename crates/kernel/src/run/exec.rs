//! Giving a process its program (execve(2)): scripts, images, and the move into a fresh host process.

use super::pool::PreparedStack;
use super::program::{Executable, Image, StackLayout};
use super::space::Brk;
use super::{Engine, GuestThread, PlainCode};
use crate::context::{After, Looked, NativePlan};
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Metadata};
use crate::fs::mount::MountFlags;
use crate::fs::path::Path;
use crate::fs::text::Text;
use crate::fs::walk::{self, Follow, Resolved};
use crate::ptrace;
use crate::task::{self, AccessMode, Dying, ExecFile, ExitStatus, Program};
use crate::{Context, Errno, Result};
use skerry_abi::raw::{auxvec, general as linux};
use skerry_abi::signal::Signal;
use skerry_platform::engine::NativeCall;
use skerry_platform::layout::loan::known;
use skerry_platform::layout::marshal;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How many scripts may be each other's interpreters (execve(2), ELOOP... as Linux counts them).
const MAXIMUM_SCRIPTS: usize = 5;
/// What is read of a script's first line (execve(2), "Interpreter scripts").
const SCRIPT_LINE: usize = 256;
/// MAX_ARG_STRLEN, with its zero.
pub const MAXIMUM_STRING: usize = 131_072;
/// Three quarters of _STK_LIM, over which no stack limit lets arguments grow.
pub(super) const MAXIMUM_STRINGS: u64 = 6 << 20;
const PAGE: u64 = 4096;
/// The largest stack that is mapped, however high RLIMIT_STACK is.
const MAXIMUM_STACK: u64 = 1 << 30;
const DEFAULT_UNLIMITED_STACK: u64 = 64 << 20;
/// What lies on a stack goes through the channel's area up to so many bytes; some room is left for names.
const MOST_ALONG: usize = marshal::AREA - 1024;
/// How long a killed host process may take to die.
const DEATH_TIMEOUT_MS: u32 = 10_000;

/// What is to be executed.
pub struct Execution {
    pub path: Path,
    /// As the caller named it: AT_EXECFN, and a script's own name.
    pub name: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<Vec<u8>>,
}

/// Replaces the program of the calling task. On success the caller's host thread never goes on: `After::Replaced`.
///
/// Errors: those of execve(2), before anything has changed.
pub fn execute(context: &mut Context, mut execution: Execution) -> Result<()> {
    check_size(context, &execution)?;
    let kernel = context.kernel().clone();
    let engine = kernel.engine().ok_or(Errno::ENOSYS)?;
    let (file, metadata, text) = find_program(context, &mut execution)?;
    let path = text.path();
    let no_suid = path.mount.flags().contains(MountFlags::NOSUID) || ptrace::is_overlooked(context.task);
    let exec_file = ExecFile::new(&metadata, no_suid);
    let (credentials, secure) = exec_file.credentials(&context.task.credentials())?;
    let image = Image::parse(&file)?;
    let interpreter = match &image.interpreter {
        Some(name) => {
            let path = walk::resolve(context.task, linux::AT_FDCWD, name, Follow::Yes)?;
            let image = Image::parse(&open_executable(context, &path)?.0).map_err(|error| match error {
                Errno::ENOEXEC => Errno::ELIBBAD,
                other => other,
            })?;
            Some(image)
        }
        None => None,
    };
    let fresh = engine.pool.take(&engine, || context.before_slow_host_call())?;
    let plan = Plan::make(context, &engine, &execution, image, interpreter, &credentials, secure, fresh.thread().stack)?;
    let former_tid = context.task.tid();
    task::kill_other_threads(context)?;
    let pool_thread = fresh.keep();
    task::robust::release(context.task);
    leave_old_process(&engine, context);
    let is_alive = move_in(&engine, context, &pool_thread, plan.brk);
    plan.plain_code.into_iter().for_each(|code| pool_thread.space.add_plain_code(code));
    let mut program = plan.program;
    program.executable = Some(text);
    task::exec_reset(context.task, &execution.name, program, &exec_file, credentials);
    ptrace::executed(context.task, former_tid);
    let Plan { calls, has_prepared_stack, start, .. } = plan;
    let beginning = Beginning { thread: pool_thread, calls, has_prepared_stack, start };
    context.after = After::Replaced(is_alive.then(|| Box::new(beginning)));
    if !is_alive {
        // The host has ended it while it waited for its program.
        task::host_gone(context.process(), Some(ExitStatus::Signaled(Signal::SIGKILL, false)));
    }
    Ok(())
}

/// What is left of [`execute`] once all that it has changed is known: the program begins.
pub struct Beginning {
    thread: Arc<GuestThread>,
    calls: Vec<NativeCall>,
    /// The stack is where the fresh process has one already.
    has_prepared_stack: bool,
    start: Start,
}

impl Beginning {
    pub(super) fn begin(self, engine: &Arc<Engine>, context: &mut Context) {
        let Beginning { thread, calls, has_prepared_stack, start } = self;
        let started = if has_prepared_stack {
            start_at_once(engine, &thread, context, &start, &calls)
        } else {
            start_when_mapped(engine, &thread, context, start, calls)
        };
        if started.is_err() {
            // Past the point of no return: as Linux, which kills such a process.
            task::kill_group(context.process(), ExitStatus::Signaled(Signal::SIGKILL, false));
        }
        engine.pool.refill(engine);
    }
}

/// The stack is mapped already: what lies on it goes along, or is written first where it is much, and the process goes on from
/// its mappings to the program without another call.
fn start_at_once(
    engine: &Arc<Engine>,
    thread: &Arc<GuestThread>,
    context: &mut Context,
    start: &Start,
    calls: &[NativeCall],
) -> Result<()> {
    let Start { entry, stack_pointer, ref stack } = *start;
    let goes_along = stack.len() <= MOST_ALONG;
    if !goes_along && context.memory().write(stack_pointer, stack) != stack.len() {
        return Err(Errno::EFAULT);
    }
    look_for_preloads(context);
    engine.run_program(thread, context, calls, entry, stack_pointer, if goes_along { stack } else { &[] })
}

/// The dynamic linker asks for a file that hardly anybody has before anything else (ld.so(8)). That it is not there is told with
/// the program's begin.
fn look_for_preloads(context: &mut Context) {
    const NAME: &[u8] = b"/etc/ld.so.preload";
    if context.process().program.read().has_interpreter {
        let credentials = context.task.credentials();
        let Resolved { found, is_steady } =
            walk::resolve_with_metadata(context.task, &credentials, linux::AT_FDCWD, NAME, Follow::Yes);
        if is_steady && found.is_err_and(|errno| errno == Errno::ENOENT) {
            let kind = known::ACCESS | linux::R_OK;
            let answer = Err(Errno::ENOENT);
            context.looked = Some(Looked { directory: linux::AT_FDCWD, name: NAME.to_vec(), kind, answer });
        }
    }
}

/// The process maps its stack among the rest; then that is written.
fn start_when_mapped(
    engine: &Arc<Engine>,
    thread: &Arc<GuestThread>,
    context: &Context,
    start: Start,
    calls: Vec<NativeCall>,
) -> Result<()> {
    let then = move |context: &mut Context, status: i64| {
        if status < 0 || context.memory().write(start.stack_pointer, &start.stack) != start.stack.len() {
            task::exit_group(context.task, ExitStatus::Signaled(Signal::SIGKILL, false));
            context.after = After::Gone;
        } else {
            context.after = After::Run { entry: start.entry, stack: start.stack_pointer };
        }
        Ok(0)
    };
    engine.ask_native(thread, context, NativePlan { calls, then: Some(Box::new(then)), value: None })
}

/// Where the host's maps do not show an image's name, because a copy is mapped.
fn remember_names(context: &Context, image: &Image, calls: &[NativeCall]) {
    let kernel = context.kernel();
    let Some(path) = image.file.path.as_ref().filter(|_| kernel.maps_copies()) else { return };
    for (_, descriptor) in calls.iter().filter_map(|call| call.descriptor.as_ref()) {
        kernel.mapped_names.remember(descriptor, path, kernel);
    }
}

/// E2BIG where arguments and environment are more than the stack limit allows (execve(2), "Limits on size").
fn check_size(context: &Context, execution: &Execution) -> Result<()> {
    let stack = context.process().rlimit(linux::RLIMIT_STACK).current;
    let limit = (stack / 4).clamp(MAXIMUM_STRING as u64, MAXIMUM_STRINGS);
    let strings = execution.arguments.iter().chain(&execution.environment);
    let total: u64 = strings.map(|string| string.len() as u64 + 1 + 8).sum();
    if total > limit {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// Opens what is to be executed, following scripts to their interpreters; `execution`'s arguments grow by them.
fn find_program(context: &Context, execution: &mut Execution) -> Result<(Executable, Metadata, Text)> {
    let mut path = execution.path.clone();
    let mut script_name = execution.name.clone();
    for _ in 0..MAXIMUM_SCRIPTS {
        let (file, metadata) = open_executable(context, &path)?;
        let text = Text::of(&path)?;
        let line = file.start(SCRIPT_LINE);
        if !line.starts_with(b"#!") {
            return Ok((file, metadata, text));
        }
        let (interpreter, argument) = parse_script_line(&line[2..], line.len() == SCRIPT_LINE)?;
        let mut arguments = vec![interpreter.clone()];
        arguments.extend(argument);
        arguments.push(script_name);
        arguments.extend(execution.arguments.iter().skip(1).cloned());
        execution.arguments = arguments;
        path = walk::resolve(context.task, linux::AT_FDCWD, &interpreter, Follow::Yes)?;
        script_name = interpreter;
    }
    Err(Errno::ELOOP)
}

/// The interpreter, and the rest of the line as one argument.
pub(super) fn parse_script_line(line: &[u8], cut_off: bool) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (line, whole) = match line.iter().position(|byte| *byte == b'\n' || *byte == 0) {
        Some(end) => (&line[..end], true),
        None => (line, !cut_off),
    };
    let line = line.trim_ascii();
    let end = line.iter().position(blank).unwrap_or(line.len());
    let interpreter = &line[..end];
    // A name that may go on behind what was read is no name.
    if interpreter.is_empty() || !whole && end == line.len() {
        return Err(Errno::ENOEXEC);
    }
    let argument = line[end..].trim_ascii();
    Ok((interpreter.to_vec(), (!argument.is_empty()).then(|| argument.to_vec())))
}

/// EACCES where it is not a regular file, may not be executed, or its mount forbids it.
fn open_executable(context: &Context, path: &Path) -> Result<(Executable, Metadata)> {
    let metadata = path.inode().metadata()?;
    if metadata.kind != FileType::Regular || path.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    context.task.credentials().check_access(&metadata, AccessMode::EXECUTE)?;
    crate::policy::allows_program(context.task, path)?;
    let operations = path.inode().clone().open(context, StatusFlags::empty())?;
    let file = OpenFile::new(operations, StatusFlags::empty(), Some(path.clone()));
    Ok((Executable::new(file)?, metadata))
}

/// The task is in its old host process no longer. That runs no guest code from here on: the calling thread waits in this
/// call, and others, which might be told so late, are waited for, as is whatever the host still does to memory that
/// another process shares when the thread ends (CLONE_CHILD_CLEARTID). Otherwise it dies by itself.
fn leave_old_process(engine: &Arc<Engine>, context: &Context) {
    let process = context.process();
    let Some(old) = process.host.write().take() else { return };
    let caller = context.task.host.read().clone().and_then(|host| engine.thread(host.tid));
    let must_be_dead = caller.is_none_or(|caller| caller.must_be_seen_dead(context.task));
    let dying = Dying::new(old.clone());
    engine.leave(&old, &dying);
    process.add_dying(dying);
    if must_be_dead && !old.wait_until_dead(0) {
        context.before_slow_host_call();
        old.wait_until_dead(DEATH_TIMEOUT_MS);
    }
}

/// The task's host side becomes the pool's thread. False: that is dead, and nobody else tells of it.
fn move_in(engine: &Arc<Engine>, context: &Context, thread: &Arc<GuestThread>, brk: Brk) -> bool {
    let task = context.task;
    thread.state.lock().task = Some(task.clone());
    *thread.space.brk.lock() = brk;
    *task.host.write() = Some(thread.host.clone());
    task.set_memory(Arc::new(GuestMemory::of(thread.process.clone())));
    task.set_address_space(thread.space.clone());
    task.move_to_channel(&thread.channel);
    let process = task.process();
    *process.host.write() = Some(thread.process.clone());
    let is_alive = engine.reaper.assign(thread.host.pid, process);
    if process.signals.lock().group_exit.is_some() {
        task::kill_host(process);
    }
    is_alive
}

/// Where the program begins, and what lies on its stack then.
struct Start {
    entry: u64,
    stack_pointer: u64,
    stack: Vec<u8>,
}

/// Everything that the new process maps and starts with.
struct Plan {
    calls: Vec<NativeCall>,
    /// The stack is where the fresh process has one already.
    has_prepared_stack: bool,
    start: Start,
    program: Program,
    brk: Brk,
    plain_code: Vec<PlainCode>,
}

impl Plan {
    #[allow(clippy::too_many_arguments)] // each is something that was found out on its own
    fn make(
        context: &Context,
        engine: &Engine,
        execution: &Execution,
        image: Image,
        interpreter: Option<Image>,
        credentials: &task::Credentials,
        secure: bool,
        prepared: Option<PreparedStack>,
    ) -> Result<Plan> {
        const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
        let mut random = [0u64; 7];
        let mut bytes = [0u8; 56];
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        for (word, chunk) in random.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
        }
        let at_random: [u8; 16] = bytes[..16].try_into().unwrap_or_default();
        let is_random = context.task.personality.load(Ordering::Relaxed) & ADDR_NO_RANDOMIZE == 0;
        if !is_random {
            random = [0; 7];
        }
        let pages = |word: u64, bits: u32| (word & ((1 << bits) - 1)) * PAGE;
        // Where Linux has a program, below all mappings that the host places by itself (from 0x7eff_... up).
        let bias = image.bias(0x5555_5555_4000 + pages(random[2], 28));
        let interpreter_bias = interpreter.as_ref().map(|image| image.bias(0x7e90_0000_0000 + pages(random[3], 24)));
        let limit = context.process().rlimit(linux::RLIMIT_STACK).current;
        let stack_size =
            if limit == u64::MAX { DEFAULT_UNLIMITED_STACK } else { limit.clamp(32 * PAGE, MAXIMUM_STACK) } / PAGE * PAGE;
        // Room for arguments beyond the limit on the stack itself, as execve(2) counts them separately.
        let stack_size = stack_size + MAXIMUM_STRINGS;
        let fitting = prepared.filter(|prepared| is_random && prepared.size == stack_size);
        let stack_top = match &fitting {
            Some(prepared) => prepared.top(),
            None => PreparedStack::TOP + pages(random[4], PreparedStack::RANDOM_BITS),
        };

        let mut calls = Vec::new();
        let mut plain_code = Vec::new();
        image.map(bias, &context.kernel().images, &mut calls, &mut plain_code)?;
        remember_names(context, &image, &calls);
        if let (Some(interpreter), Some(bias)) = (&interpreter, interpreter_bias) {
            let first = calls.len();
            interpreter.map(bias, &context.kernel().images, &mut calls, &mut plain_code)?;
            remember_names(context, interpreter, &calls[first..]);
        }
        if fitting.is_none() {
            if let Some(prepared) = &prepared {
                calls.insert(0, NativeCall::new(linux::__NR_munmap, [prepared.start, prepared.size, 0, 0, 0, 0]));
            }
            let flags = linux::MAP_PRIVATE
                | linux::MAP_ANONYMOUS
                | linux::MAP_FIXED_NOREPLACE
                | linux::MAP_NORESERVE
                | linux::MAP_STACK;
            let protection = u64::from(linux::PROT_READ | linux::PROT_WRITE);
            let start = stack_top - stack_size;
            calls.push(NativeCall::new(linux::__NR_mmap, [start, stack_size, protection, flags.into(), u64::MAX, 0]));
        }
        let entry = match (&interpreter, interpreter_bias) {
            (Some(interpreter), Some(bias)) => interpreter.entry(bias),
            _ => image.entry(bias),
        };
        let base = match (&interpreter, interpreter_bias) {
            (Some(_), Some(bias)) => bias,
            _ => 0,
        };
        let (hwcap, hwcap2) = rustix::param::linux_hwcap();
        let auxiliary = vec![
            (auxvec::AT_SYSINFO_EHDR.into(), engine.vdso()),
            (auxvec::AT_MINSIGSTKSZ.into(), rustix::param::linux_minsigstksz() as u64),
            (auxvec::AT_HWCAP.into(), hwcap as u64),
            (auxvec::AT_PAGESZ.into(), PAGE),
            (auxvec::AT_CLKTCK.into(), 100),
            (auxvec::AT_PHDR.into(), image.headers_address(bias)),
            (auxvec::AT_PHENT.into(), 56),
            (auxvec::AT_PHNUM.into(), image.header_count()),
            (auxvec::AT_BASE.into(), base),
            (auxvec::AT_FLAGS.into(), 0),
            (auxvec::AT_ENTRY.into(), image.entry(bias)),
            (auxvec::AT_UID.into(), credentials.ruid.into()),
            (auxvec::AT_EUID.into(), credentials.euid.into()),
            (auxvec::AT_GID.into(), credentials.rgid.into()),
            (auxvec::AT_EGID.into(), credentials.egid.into()),
            (auxvec::AT_SECURE.into(), secure.into()),
            (auxvec::AT_HWCAP2.into(), hwcap2 as u64),
        ];
        let no_arguments = [Vec::new()];
        let arguments = if execution.arguments.is_empty() { &no_arguments[..] } else { &execution.arguments[..] };
        let layout =
            StackLayout { arguments, environment: &execution.environment, path: &execution.name, random: at_random, auxiliary };
        let laid = layout.lay_out(stack_top);
        let gap = if image.position_independent { pages(random[5], 13) } else { pages(random[5], 12) };
        let start = image.end(bias) + PAGE + gap;
        let program = Program {
            executable: None,
            has_interpreter: interpreter.is_some(),
            arguments: laid.arguments,
            environment: laid.environment,
            auxiliary: laid.auxiliary,
            brk_start: start,
            stack_top,
        };
        Ok(Plan {
            calls,
            has_prepared_stack: fitting.is_some(),
            start: Start { entry, stack_pointer: laid.stack_pointer, stack: laid.bytes },
            program,
            brk: Brk { start, current: start },
            plain_code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines_are_read_as_linux_reads_them() {
        let parsed = |line: &[u8]| parse_script_line(line, false).map(|(name, argument)| (name, argument.unwrap_or_default()));
        assert_eq!(parsed(b"/bin/sh\n"), Ok((b"/bin/sh".to_vec(), vec![])));
        assert_eq!(parsed(b" \t/bin/sh  -e  -x \nrest"), Ok((b"/bin/sh".to_vec(), b"-e  -x".to_vec())));
        assert_eq!(parsed(b"/bin/sh"), Ok((b"/bin/sh".to_vec(), vec![])));
        assert_eq!(parsed(b"\n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b""), Err(Errno::ENOEXEC));
        assert_eq!(parse_script_line(&[b'a'; 254], true), Err(Errno::ENOEXEC));
    }
}
