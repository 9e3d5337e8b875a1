//! Starting a program from outside (the control protocol's `spawn`).

use super::exec::{execute, Execution};
use crate::context::{After, Call, NoLead};
use crate::fs::fd_table::FdTable;
use crate::fs::file::OpenFile;
use crate::fs::inode::FileType;
use crate::fs::walk::{self, Follow};
use crate::task::{self, AccessMode, Credentials, FsContext, Process, SpawnRequest, Task};
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::raw::general::AT_FDCWD;
use skerry_platform::memory::GuestMemory;
use std::sync::Arc;

/// A program to start.
pub struct Spawn {
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<Vec<u8>>,
    pub directory: Vec<u8>,
    pub credentials: Credentials,
    /// Standard input, output and error.
    pub stdio: [Arc<OpenFile>; 3],
}

/// Why a program could not be started.
#[derive(Debug)]
pub enum SpawnError {
    /// The host gives no process to run it in; why.
    Host(String),
    /// No file of that name (in PATH, or as given).
    NotFound,
    /// It is there, but cannot be executed: why.
    NotExecutable(Errno),
    /// Its interpreter (`#!`, or the ELF one) is missing: its name, where known.
    NoInterpreter,
    /// The working directory: why.
    Directory(Errno),
    Other(Errno),
}

/// The default PATH of execvp(3), where the environment has none.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a program as the leader of a new session, a child of pid 1.
pub fn spawn(kernel: &Arc<Kernel>, request: Spawn) -> Result<Arc<Process>, SpawnError> {
    let root = kernel.mounts.root().ok_or(SpawnError::Other(Errno::ENOENT))?;
    let files = Arc::new(FdTable::default());
    for (fd, file) in request.stdio.into_iter().enumerate() {
        let _ = files.install_at(file, fd as i32, false, 1024);
    }
    let program = request.arguments.first().cloned().filter(|program| !program.is_empty()).ok_or(SpawnError::NotFound)?;
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let task = task::spawn(
        kernel,
        SpawnRequest {
            name: name[..name.len().min(15)].to_vec(),
            credentials: request.credentials,
            fs: FsContext { root: root.clone(), current: root, umask: 0o022 },
            files,
            memory: Arc::new(GuestMemory::none()),
        },
    )
    .map_err(SpawnError::Other)?;
    crate::tty::take_control(&task);
    let started = enter_directory(&task, &request.directory)
        .map_err(SpawnError::Directory)
        .and_then(|()| start(&task, &program, request.arguments, request.environment));
    match started {
        Ok(()) => Ok(task.process().clone()),
        Err(error) => {
            let files = task.files();
            task::discard_clone(&task);
            for file in files.take_all() {
                crate::fs::close::closed(task.process(), file);
            }
            Err(error)
        }
    }
}

fn enter_directory(task: &Arc<Task>, directory: &[u8]) -> Result<()> {
    let path = walk::resolve(task, AT_FDCWD, directory, Follow::Yes)?;
    if path.inode().kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    task.fs_cell().write().current = path;
    Ok(())
}

fn start(task: &Arc<Task>, program: &[u8], arguments: Vec<Vec<u8>>, environment: Vec<Vec<u8>>) -> Result<(), SpawnError> {
    let name = find(task, program, &environment)?;
    let path = walk::resolve(task, AT_FDCWD, &name, Follow::Yes).map_err(|_| SpawnError::NotFound)?;
    let mut context = Context::new(task, &NoLead, Call::default());
    let execution = Execution { path, name, arguments, environment };
    let executed = execute(&mut context, execution);
    if let (Some(engine), After::Replaced(Some(beginning))) = (context.kernel().engine(), std::mem::take(&mut context.after)) {
        beginning.begin(&engine, &mut context);
    }
    executed.map_err(|errno| match errno {
        // The file itself was found: what is missing is what it names.
        Errno::ENOENT => SpawnError::NoInterpreter,
        Errno::EACCES | Errno::ENOEXEC | Errno::ELIBBAD | Errno::EISDIR | Errno::EPERM | Errno::ELOOP => {
            SpawnError::NotExecutable(errno)
        }
        Errno::EAGAIN => match context.kernel().engine().and_then(|engine| engine.pool.failure()) {
            Some(why) => SpawnError::Host(why),
            None => SpawnError::Other(errno),
        },
        other => SpawnError::Other(other),
    })
}

/// The file that execvp(3) would execute.
fn find(task: &Arc<Task>, program: &[u8], environment: &[Vec<u8>]) -> Result<Vec<u8>, SpawnError> {
    let check = |name: &[u8]| -> Result<()> {
        let path = walk::resolve(task, AT_FDCWD, name, Follow::Yes)?;
        let metadata = path.inode().metadata()?;
        if metadata.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        if metadata.kind != FileType::Regular {
            return Err(Errno::EACCES);
        }
        task.credentials().check_access(&metadata, AccessMode::EXECUTE)
    };
    let verdict = |errno: Errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => SpawnError::NotFound,
        other => SpawnError::NotExecutable(other),
    };
    if program.contains(&b'/') {
        return check(program).map(|()| program.to_vec()).map_err(verdict);
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let mut worst = SpawnError::NotFound;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { &b"."[..] } else { directory };
        let candidate = [directory, b"/", program].concat();
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => worst = SpawnError::NotExecutable(Errno::EACCES),
            Err(_) => {}
        }
    }
    Err(worst)
}
