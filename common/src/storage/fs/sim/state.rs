//! The contents of a simulated disk: files and directories as programs see them, and what of them is durable.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::faults::Fault;

/// Identifies a file or directory, independent of its name.
pub(super) type InodeNumber = u64;

/// The root directory.
pub(super) const ROOT: InodeNumber = 0;

/// The longest that a simulated file may become, in bytes, so that a wrong offset cannot exhaust the test's memory.
const FILE_BYTES_MAX: usize = 1 << 30;

/// A change of a file's bytes.
#[derive(Debug, Clone)]
pub(super) enum FileEdit {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

impl FileEdit {
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        to.resize(self.len_after(to.len()), 0);
        self.apply_to_part(to, 0);
    }

    /// Returns a file's length after this edit.
    pub(super) fn len_after(&self, len: usize) -> usize {
        match self {
            FileEdit::Write { bytes, .. } if bytes.is_empty() => len,
            FileEdit::Write { offset, bytes } => len.max(offset + bytes.len()),
            FileEdit::SetLen(len) => *len,
        }
    }

    /// Applies the edit to the part of a file that begins at `start`. Bytes that a cut removed become zeros.
    pub(super) fn apply_to_part(&self, part: &mut [u8], start: usize) {
        match self {
            FileEdit::Write { offset, bytes } => {
                let (to, from) = (offset.saturating_sub(start), start.saturating_sub(*offset));
                let targets = part.get_mut(to..).unwrap_or_default().iter_mut();
                targets.zip(bytes.get(from..).unwrap_or_default()).for_each(|(target, byte)| *target = *byte);
            }
            FileEdit::SetLen(len) => {
                part.get_mut(len.saturating_sub(start)..).unwrap_or_default().fill(0);
            }
        }
    }
}

/// A file's bytes. Copies of a disk share them until they change, which makes copies cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct FileContent {
    pub(super) live: Arc<Vec<u8>>,
    pub(super) durable: Arc<Vec<u8>>,
    /// The edits that a sync would make durable, in order. Edits that a failed sync lost are only in `live`.
    pub(super) unsynced: Vec<FileEdit>,
    /// The fault of every failed sync, in order.
    pub(super) failures: Vec<Fault>,
}

/// The entries of a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct DirEntries {
    pub(super) live: BTreeMap<String, InodeNumber>,
    pub(super) durable: BTreeMap<String, InodeNumber>,
}

#[derive(Debug, Clone)]
pub(super) enum Inode {
    File(FileContent),
    Dir(DirEntries),
}

/// A directory and a name in it.
type DirEntryAddress = (InodeNumber, String);

/// The change that gives an inode a name, removes its name, or does both atomically.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    number: InodeNumber,
    from: Option<DirEntryAddress>,
    to: Option<DirEntryAddress>,
}

impl NameChange {
    fn addresses(&self) -> impl Iterator<Item = &DirEntryAddress> {
        self.from.iter().chain(&self.to)
    }
}

/// All inodes of a simulated disk.
#[derive(Debug, Clone)]
pub(super) struct SimState {
    pub(super) inodes: BTreeMap<InodeNumber, Inode>,
    /// Name changes that are not durable, in order.
    pub(super) unsynced_names: Vec<NameChange>,
}

pub(super) fn failed(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

/// Splits a path into names, from the root down. Relative paths start at the root too.
fn names(path: &Path) -> io::Result<Vec<&str>> {
    let invalid = || failed(io::ErrorKind::InvalidInput, path);
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or_else(invalid)?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(invalid()),
        }
    }
    Ok(names)
}

impl SimState {
    pub(super) fn new() -> SimState {
        SimState {
            inodes: BTreeMap::from([(ROOT, Inode::Dir(DirEntries::default()))]),
            unsynced_names: Vec::new(),
        }
    }

    fn directory(&self, number: InodeNumber) -> Option<&DirEntries> {
        match self.inodes.get(&number) {
            Some(Inode::Dir(names)) => Some(names),
            _ => None,
        }
    }

    pub(super) fn content(&mut self, number: InodeNumber) -> io::Result<&mut FileContent> {
        match self.inodes.get_mut(&number) {
            Some(Inode::File(content)) => Ok(content),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Finds the inode at a path.
    pub(super) fn find(&self, path: &Path) -> io::Result<InodeNumber> {
        let mut at = ROOT;
        for name in names(path)? {
            let dir = self.directory(at).ok_or_else(|| failed(io::ErrorKind::NotADirectory, path))?;
            at = *dir.live.get(name).ok_or_else(|| failed(io::ErrorKind::NotFound, path))?;
        }
        Ok(at)
    }

    /// Finds the file at a path.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<InodeNumber> {
        let number = self.find(path)?;
        match self.directory(number) {
            Some(_) => Err(failed(io::ErrorKind::IsADirectory, path)),
            None => Ok(number),
        }
    }

    /// Finds the directory at a path, and its entries.
    pub(super) fn find_dir(&self, path: &Path) -> io::Result<(InodeNumber, &DirEntries)> {
        let number = self.find(path)?;
        let names = self.directory(number).ok_or_else(|| failed(io::ErrorKind::NotADirectory, path))?;
        Ok((number, names))
    }

    /// Returns a path's directory, its last name, and the inode that has this name now.
    fn resolve_entry(&self, path: &Path) -> io::Result<(InodeNumber, String, Option<InodeNumber>)> {
        let name = *names(path)?.last().ok_or_else(|| failed(io::ErrorKind::AlreadyExists, path))?;
        let (dir, names) = self.find_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.to_owned(), names.live.get(name).copied()))
    }

    /// Applies a name change to the live or the durable entries. If the old name does not lead to the inode, because an
    /// earlier change was lost in a crash, this change is lost too, so that no inode ever has two names.
    fn apply(
        &mut self,
        change: &NameChange,
        view: fn(&mut DirEntries) -> &mut BTreeMap<String, InodeNumber>,
    ) {
        if let Some((dir, name)) = &change.from {
            match self.entries_mut(*dir).map(view) {
                Some(names) if names.get(name) == Some(&change.number) => drop(names.remove(name)),
                _ => return,
            }
        }
        if let Some((dir, name)) = &change.to
            && let Some(names) = self.entries_mut(*dir).map(view)
        {
            names.insert(name.clone(), change.number);
        }
    }

    fn entries_mut(&mut self, number: InodeNumber) -> Option<&mut DirEntries> {
        match self.inodes.get_mut(&number) {
            Some(Inode::Dir(names)) => Some(names),
            _ => None,
        }
    }

    fn change(&mut self, change: NameChange) {
        self.apply(&change, |names| &mut names.live);
        self.unsynced_names.push(change);
    }

    /// Makes one name change durable.
    pub(super) fn make_durable(&mut self, change: &NameChange) {
        self.apply(change, |names| &mut names.durable);
    }

    fn add_inode(&mut self, path: &Path, inode: Inode) -> io::Result<InodeNumber> {
        let (dir, name, existing) = self.resolve_entry(path)?;
        if existing.is_some() {
            return Err(failed(io::ErrorKind::AlreadyExists, path));
        }
        let number = self.inodes.last_key_value().map_or(ROOT, |(last, _)| last + 1);
        self.inodes.insert(number, inode);
        self.change(NameChange { number, from: None, to: Some((dir, name)) });
        Ok(number)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<InodeNumber> {
        self.add_inode(path, Inode::File(FileContent::default()))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for name in names(path)? {
            at.push(name);
            match self.add_inode(&at, Inode::Dir(DirEntries::default())) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                added => drop(added?),
            }
        }
        self.find_dir(path).map(drop)
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let number = self.find_file(path)?;
        self.unlink(path, number)
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let (number, names) = self.find_dir(path)?;
        if !names.live.is_empty() {
            return Err(failed(io::ErrorKind::DirectoryNotEmpty, path));
        }
        self.unlink(path, number)
    }

    fn unlink(&mut self, path: &Path, number: InodeNumber) -> io::Result<()> {
        let (dir, name, _) = self.resolve_entry(path)?;
        self.change(NameChange { number, from: Some((dir, name)), to: None });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.find(from)?;
        let (from_dir, from_name, _) = self.resolve_entry(from)?;
        let (to_dir, to_name, existing) = self.resolve_entry(to)?;
        if existing == Some(number) {
            return Ok(());
        }
        let is_dir = self.directory(number).is_some();
        if is_dir && names(to)?.starts_with(&names(from)?) {
            return Err(failed(io::ErrorKind::InvalidInput, to));
        }
        match (is_dir, existing.map(|existing| self.directory(existing))) {
            (false, Some(Some(_))) => return Err(failed(io::ErrorKind::IsADirectory, to)),
            (true, Some(None)) => return Err(failed(io::ErrorKind::NotADirectory, to)),
            (true, Some(Some(names))) if !names.live.is_empty() => {
                return Err(failed(io::ErrorKind::DirectoryNotEmpty, to));
            }
            _ => {}
        }
        self.change(NameChange { number, from: Some((from_dir, from_name)), to: Some((to_dir, to_name)) });
        Ok(())
    }

    /// Makes the name changes of a directory durable, and the earlier changes that they depend on: a rename between two
    /// directories is one change, so a sync of either directory makes it durable.
    pub(super) fn sync_dir(&mut self, number: InodeNumber) {
        let mut touched = vec![number];
        let (mut durable, mut waiting) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.unsynced_names).into_iter().rev() {
            if change.addresses().any(|(dir, _)| touched.contains(dir)) {
                touched.extend(change.addresses().map(|(dir, _)| *dir));
                durable.push(change);
            } else {
                waiting.push(change);
            }
        }
        waiting.reverse();
        self.unsynced_names = waiting;
        for change in durable.iter().rev() {
            self.make_durable(change);
        }
    }

    /// Returns the bytes of every file that has a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let mut open = vec![ROOT];
        let mut bytes = 0;
        while let Some(number) = open.pop() {
            match self.inodes.get(&number) {
                Some(Inode::Dir(names)) => open.extend(names.live.values()),
                Some(Inode::File(content)) => bytes += content.live.len() as u64,
                None => {}
            }
        }
        bytes
    }

    /// Returns the path of every file, sorted.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, number)) = open.pop() {
            match self.directory(number) {
                Some(names) => open.extend(names.live.iter().map(|(name, n)| (path.join(name), *n))),
                None => paths.push(path),
            }
        }
        paths.sort_unstable();
        paths
    }
}

impl FileContent {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = checked_offset(offset, bytes.len())?;
        self.edit(FileEdit::Write { offset, bytes: bytes.into() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = checked_offset(len, 0)?;
        self.edit(FileEdit::SetLen(len));
        Ok(())
    }

    fn edit(&mut self, edit: FileEdit) {
        edit.apply(Arc::make_mut(&mut self.live));
        self.unsynced.push(edit);
    }

    /// Makes the unsynced edits durable. As on Linux, a handle that has not seen an earlier failed sync still gets that
    /// failure: `reported` is the number of failures that the handle has seen, and the last failure is returned if there
    /// are more.
    pub(super) fn sync(&mut self, reported: usize) -> Option<Fault> {
        if !self.unsynced.is_empty() {
            self.make_durable();
        }
        self.failures.get(reported..).and_then(|unreported| unreported.last()).copied()
    }

    fn make_durable(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        for edit in self.unsynced.drain(..) {
            edit.apply(durable);
        }
    }

    /// Records a failed sync. As on Linux, the pages then count as clean: reads return their bytes, but the bytes never
    /// reach the disk, and the next sync ignores them.
    pub(super) fn fail_sync(&mut self, fault: Fault) {
        self.unsynced.clear();
        self.failures.push(fault);
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.live.get(from..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        n
    }
}

fn checked_offset(offset: u64, len: usize) -> io::Result<usize> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    if offset.saturating_add(len) > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(offset)
}
