//! /proc/PID/fd and fdinfo.

use super::view::View;
use crate::fs::anonymous;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::FileType;
use crate::fs::path::Path;
use crate::fs::pseudo::{Attributes, Content, Entry, Node};
use crate::task::Task;
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::raw::general as linux;
use std::sync::Arc;

/// Which of the two directories.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DescriptorKind {
    Links,
    Information,
}

impl DescriptorKind {
    pub const ALL: [DescriptorKind; 2] = [DescriptorKind::Links, DescriptorKind::Information];

    pub fn by_name(name: &str) -> Option<DescriptorKind> {
        DescriptorKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            DescriptorKind::Links => "fd",
            DescriptorKind::Information => "fdinfo",
        }
    }

    /// Numbers of the directory and, behind it, of its entries: see `super::process`.
    fn first_inode(self, view: &View) -> u64 {
        let base = super::process::directory_inode(view.id()) + (u64::from(view.of_thread) << 19);
        match self {
            DescriptorKind::Links => base + (1 << 16),
            DescriptorKind::Information => base + (1 << 17),
        }
    }

    pub fn entry(self, view: &View) -> Entry {
        Entry { name: self.name().into(), inode: self.first_inode(view), kind: FileType::Directory }
    }

    fn item_kind(self) -> FileType {
        match self {
            DescriptorKind::Links => FileType::Symlink,
            DescriptorKind::Information => FileType::Regular,
        }
    }
}

pub(super) struct DescriptorDirectory {
    pub view: View,
    pub kind: DescriptorKind,
}

impl Node for DescriptorDirectory {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn attributes(&self) -> Result<Attributes> {
        // The directory is for its owner; a process may always look at its own, but that is what its owner is.
        let attributes = Attributes::new(self.kind.first_inode(&self.view), FileType::Directory, 0o500);
        let count = self.view.files().map_or(0, |files| files.descriptors().len());
        Ok(Attributes { size: count as u64, ..attributes.owned_by(self.view.owner()) })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        let fd = match name {
            b"0" => 0,
            _ => super::parse_id(name).ok_or(Errno::ENOENT)?,
        };
        self.view.files()?.get(fd).map_err(|_| Errno::ENOENT)?;
        Ok(Arc::new(Descriptor { view: self.view.clone(), kind: self.kind, fd }))
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let first = self.kind.first_inode(&self.view);
        let entry =
            |fd: i32| Entry { name: fd.to_string().into_bytes(), inode: first + 1 + fd as u64, kind: self.kind.item_kind() };
        // A process without threads has nothing open.
        let Ok(files) = self.view.files() else { return Ok(Vec::new()) };
        Ok(files.descriptors().into_iter().map(entry).collect())
    }
}

/// One descriptor's link, or its text in fdinfo.
struct Descriptor {
    view: View,
    kind: DescriptorKind,
    fd: i32,
}

impl Descriptor {
    fn file(&self) -> Result<Arc<OpenFile>> {
        self.view.files().and_then(|files| files.get(self.fd)).map_err(|_| Errno::ENOENT)
    }
}

impl Node for Descriptor {
    fn kind(&self) -> FileType {
        self.kind.item_kind()
    }

    fn attributes(&self) -> Result<Attributes> {
        let permissions = match self.kind {
            DescriptorKind::Information => 0o400,
            DescriptorKind::Links => {
                let file = self.file()?;
                let mut permissions = 0o100;
                if file.is_readable() {
                    permissions |= 0o400;
                }
                if file.is_writable() {
                    permissions |= 0o200;
                }
                permissions
            }
        };
        let inode = self.kind.first_inode(&self.view) + 1 + self.fd as u64;
        let attributes = Attributes::new(inode, self.kind(), permissions).owned_by(self.view.owner());
        let size = if self.kind == DescriptorKind::Links { 64 } else { 0 };
        Ok(Attributes { size, ..attributes })
    }

    fn read_link(&self, reader: Option<&Task>) -> Result<Vec<u8>> {
        if self.kind != DescriptorKind::Links {
            return Err(Errno::EINVAL);
        }
        if let Some(reader) = reader {
            self.view.check_access(reader)?;
        }
        let file = self.file()?;
        let Some(path) = &file.path else { return Ok(file.operations.anonymous_name().into_bytes()) };
        if let Some(name) = anonymous::name_of(path) {
            return Ok(name.into_bytes());
        }
        let root = match reader {
            Some(reader) => reader.fs().root,
            None => self.view.kernel.mounts.root().ok_or(Errno::ENOENT)?,
        };
        Ok(path.absolute_name(&root))
    }

    fn follow(&self) -> Option<Result<Path>> {
        (self.kind == DescriptorKind::Links).then(|| {
            let file = self.file()?;
            match &file.path {
                Some(path) => Ok(path.clone()),
                None => Ok(anonymous::path_of(&self.view.kernel, file)),
            }
        })
    }

    fn open(&self, context: &Context, _flags: StatusFlags) -> Result<Box<dyn Content>> {
        self.view.check_access(context.task)?;
        let (view, fd) = (self.view.clone(), self.fd);
        Ok(Box::new(move || information(&view, fd)))
    }
}

/// proc_pid_fdinfo(5).
fn information(view: &View, fd: i32) -> Result<Vec<u8>> {
    let files = view.files()?;
    let file = files.get(fd).map_err(|_| Errno::ENOENT)?;
    let mut flags = file.flags().bits();
    if files.close_on_exec(fd).unwrap_or(false) {
        flags |= linux::O_CLOEXEC;
    }
    let position = file.position.lock().get();
    let mount = file.path.as_ref().map_or(15, |path| path.mount.id);
    let inode = file.operations.metadata().map_or(0, |metadata| metadata.inode);
    let mut text = format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{inode}\n");
    text.push_str(&file.operations.fdinfo());
    Ok(text.into_bytes())
}

/// The place of a namespace's file (/proc/PID/ns/*).
pub(super) fn namespace_path(kernel: &Arc<Kernel>, inode: u64) -> Result<Path> {
    Ok(anonymous::path_of_namespace(kernel, inode))
}
