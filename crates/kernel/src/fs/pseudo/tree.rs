//! Trees that are the same for everybody: built once, by path.

use super::{Attributes, Content, Entry, Node};
use crate::fs::file::StatusFlags;
use crate::fs::inode::FileType;
use crate::task::Task;
use crate::{Context, Errno, Kernel, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes a file's text from the kernel's state.
pub type Generate = Box<dyn Fn(&Kernel) -> Result<Vec<u8>> + Send + Sync>;
/// Takes what was written to a file.
type Store = dyn Fn(&Kernel, &[u8]) -> Result<()> + Send + Sync;

enum Kind {
    Directory(BTreeMap<Vec<u8>, Tree>),
    File { generate: Arc<Generate>, store: Option<Arc<Store>> },
    Link(Vec<u8>),
    Other(Arc<dyn Node>),
}

/// A node while the tree is being built, and after that its description.
pub struct Tree {
    permissions: u32,
    kind: Kind,
}

impl Tree {
    /// An empty directory.
    pub fn directory() -> Tree {
        Tree { permissions: 0o555, kind: Kind::Directory(BTreeMap::new()) }
    }

    fn place(&mut self, path: &str) -> &mut BTreeMap<Vec<u8>, Tree> {
        let mut position = self;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Kind::Directory(entries) = &mut position.kind else {
                unreachable!("a file of the tree is used as a directory: {path}");
            };
            position = entries.entry(part.as_bytes().to_vec()).or_insert_with(Tree::directory);
        }
        match &mut position.kind {
            Kind::Directory(entries) => entries,
            _ => unreachable!("a file of the tree is used as a directory: {path}"),
        }
    }

    fn add(&mut self, path: &str, tree: Tree) -> &mut Tree {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.place(directory).insert(name.as_bytes().to_vec(), tree);
        self
    }

    /// Makes sure that the directory exists.
    pub fn add_directory(&mut self, path: &str) -> &mut Tree {
        self.place(path);
        self
    }

    /// A file that everybody may read.
    pub fn add_file(&mut self, path: &str, generate: impl Fn(&Kernel) -> Result<Vec<u8>> + Send + Sync + 'static) -> &mut Tree {
        let generate: Arc<Generate> = Arc::new(Box::new(generate));
        self.add(path, Tree { permissions: 0o444, kind: Kind::File { generate, store: None } })
    }

    /// A file with the same text always; a line end is added.
    pub fn add_text(&mut self, path: &str, text: impl Into<String>) -> &mut Tree {
        let mut text = text.into();
        text.push('\n');
        self.add_file(path, move |_| Ok(text.clone().into_bytes()))
    }

    /// A file that root may write.
    pub fn add_setting(
        &mut self,
        path: &str,
        generate: impl Fn(&Kernel) -> Result<Vec<u8>> + Send + Sync + 'static,
        store: impl Fn(&Kernel, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> &mut Tree {
        let generate: Arc<Generate> = Arc::new(Box::new(generate));
        self.add(path, Tree { permissions: 0o644, kind: Kind::File { generate, store: Some(Arc::new(store)) } })
    }

    pub fn add_link(&mut self, path: &str, target: &str) -> &mut Tree {
        self.add(path, Tree { permissions: 0o777, kind: Kind::Link(target.as_bytes().to_vec()) })
    }

    /// Any other node.
    pub fn add_node(&mut self, path: &str, node: Arc<dyn Node>) -> &mut Tree {
        self.add(path, Tree { permissions: 0, kind: Kind::Other(node) })
    }

    /// Changes the permission bits of a node that was added.
    pub fn permissions(&mut self, path: &str, permissions: u32) -> &mut Tree {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(tree) = self.place(directory).get_mut(name.as_bytes()) {
            tree.permissions = permissions;
        }
        self
    }

    /// Gives all nodes numbers from `next_inode` on and makes them nodes.
    pub fn build(self, next_inode: &mut u64) -> Arc<dyn Node> {
        let inode = *next_inode;
        *next_inode += 1;
        let kind = match self.kind {
            Kind::Directory(entries) => {
                Built::Directory(entries.into_iter().map(|(name, tree)| (name, tree.build(next_inode))).collect())
            }
            Kind::File { generate, store } => Built::File { generate, store },
            Kind::Link(target) => Built::Link(target),
            Kind::Other(node) => return node,
        };
        Arc::new(StaticNode { inode, permissions: self.permissions, kind })
    }
}

enum Built {
    Directory(BTreeMap<Vec<u8>, Arc<dyn Node>>),
    File { generate: Arc<Generate>, store: Option<Arc<Store>> },
    Link(Vec<u8>),
}

/// A node of a finished tree.
struct StaticNode {
    inode: u64,
    permissions: u32,
    kind: Built,
}

/// An opening of a static file.
struct StaticContent {
    kernel: Arc<Kernel>,
    generate: Arc<Generate>,
    store: Option<Arc<Store>>,
}

impl Content for StaticContent {
    fn generate(&self) -> Result<Vec<u8>> {
        (self.generate)(&self.kernel)
    }

    fn store(&self, text: &[u8]) -> Result<()> {
        match &self.store {
            Some(store) => store(&self.kernel, text),
            None => Err(Errno::EACCES),
        }
    }
}

impl Node for StaticNode {
    fn kind(&self) -> FileType {
        match self.kind {
            Built::Directory(_) => FileType::Directory,
            Built::File { .. } => FileType::Regular,
            Built::Link(_) => FileType::Symlink,
        }
    }

    fn attributes(&self) -> Result<Attributes> {
        let mut attributes = Attributes::new(self.inode, self.kind(), self.permissions);
        if let Built::Directory(entries) = &self.kind {
            attributes.links += entries.values().filter(|node| node.kind() == FileType::Directory).count() as u64;
        }
        if let Built::Link(target) = &self.kind {
            attributes.size = target.len() as u64;
        }
        Ok(attributes)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        match &self.kind {
            Built::Directory(entries) => entries.get(name).cloned().ok_or(Errno::ENOENT),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let Built::Directory(entries) = &self.kind else { return Err(Errno::ENOTDIR) };
        let entry = |(name, node): (&Vec<u8>, &Arc<dyn Node>)| {
            let inode = node.attributes().map_or(0, |attributes| attributes.inode);
            Entry { name: name.clone(), inode, kind: node.kind() }
        };
        Ok(entries.iter().map(entry).collect())
    }

    fn read_link(&self, _reader: Option<&Task>) -> Result<Vec<u8>> {
        match &self.kind {
            Built::Link(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&self, context: &Context, flags: StatusFlags) -> Result<Box<dyn Content>> {
        let Built::File { generate, store } = &self.kind else { return Err(Errno::EISDIR) };
        if store.is_none() && flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR) {
            return Err(Errno::EACCES);
        }
        Ok(Box::new(StaticContent { kernel: context.kernel().clone(), generate: generate.clone(), store: store.clone() }))
    }
}
