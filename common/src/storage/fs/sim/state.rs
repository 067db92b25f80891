//! What a simulated disk holds: files and directories as programs see them, and what of them is durable.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::faults::Fault;

/// A file or directory, whatever its name.
pub(super) type Number = u64;

/// The directory that everything hangs from.
pub(super) const ROOT: Number = 0;

/// No simulated file grows beyond this: a wild offset must not eat the test's memory.
const FILE_BYTES_MAX: usize = 1 << 30;

/// A change of a file's bytes.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

impl Edit {
    pub(super) fn apply(&self, to: &mut Vec<u8>) {
        to.resize(self.len_after(to.len()), 0);
        self.apply_to_part(to, 0);
    }

    /// A file's length after this.
    pub(super) fn len_after(&self, len: usize) -> usize {
        match self {
            Edit::Write { bytes, .. } if bytes.is_empty() => len,
            Edit::Write { offset, bytes } => len.max(offset + bytes.len()),
            Edit::SetLen(len) => *len,
        }
    }

    /// Changes the bytes of a part of a file, which begins at `start`. What was cut off are zeros.
    pub(super) fn apply_to_part(&self, part: &mut [u8], start: usize) {
        match self {
            Edit::Write { offset, bytes } => {
                let (to, from) = (offset.saturating_sub(start), start.saturating_sub(*offset));
                let places = part.get_mut(to..).unwrap_or_default().iter_mut();
                places.zip(bytes.get(from..).unwrap_or_default()).for_each(|(place, byte)| *place = *byte);
            }
            Edit::SetLen(len) => {
                part.get_mut(len.saturating_sub(start)..).unwrap_or_default().fill(0);
            }
        }
    }
}

/// A file's bytes. Shared until they change, so that copies of a disk cost little.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) live: Arc<Vec<u8>>,
    pub(super) durable: Arc<Vec<u8>>,
    /// What a sync would make durable, in order. What a failed sync lost is in `live` alone.
    pub(super) unsynced: Vec<Edit>,
    /// Every sync that failed.
    pub(super) failures: Vec<Fault>,
}

/// A directory's names.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) live: BTreeMap<String, Number>,
    pub(super) durable: BTreeMap<String, Number>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Content),
    Dir(Names),
}

/// A name in a directory.
type Place = (Number, String);

/// A file or directory that gets a name, loses it, or both at once.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    number: Number,
    from: Option<Place>,
    to: Option<Place>,
}

impl NameChange {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }
}

/// Everything on a simulated disk.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<Number, Node>,
    /// Name changes not yet durable, in order.
    pub(super) renamed: Vec<NameChange>,
}

pub(super) fn failed(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

/// A path's names from the root down. Relative paths count from the root, too.
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

impl State {
    pub(super) fn new() -> State {
        State { nodes: BTreeMap::from([(ROOT, Node::Dir(Names::default()))]), renamed: Vec::new() }
    }

    fn directory(&self, number: Number) -> Option<&Names> {
        match self.nodes.get(&number) {
            Some(Node::Dir(names)) => Some(names),
            _ => None,
        }
    }

    pub(super) fn content(&mut self, number: Number) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&number) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// What a path leads to.
    pub(super) fn find(&self, path: &Path) -> io::Result<Number> {
        let mut at = ROOT;
        for name in names(path)? {
            let dir = self.directory(at).ok_or_else(|| failed(io::ErrorKind::NotADirectory, path))?;
            at = *dir.live.get(name).ok_or_else(|| failed(io::ErrorKind::NotFound, path))?;
        }
        Ok(at)
    }

    /// The file that a path leads to.
    pub(super) fn find_file(&self, path: &Path) -> io::Result<Number> {
        let number = self.find(path)?;
        match self.directory(number) {
            Some(_) => Err(failed(io::ErrorKind::IsADirectory, path)),
            None => Ok(number),
        }
    }

    /// The directory that a path leads to, and its names.
    pub(super) fn find_dir(&self, path: &Path) -> io::Result<(Number, &Names)> {
        let number = self.find(path)?;
        let names = self.directory(number).ok_or_else(|| failed(io::ErrorKind::NotADirectory, path))?;
        Ok((number, names))
    }

    /// A path's directory, its last name, and what that name stands for now.
    fn place(&self, path: &Path) -> io::Result<(Number, String, Option<Number>)> {
        let name = *names(path)?.last().ok_or_else(|| failed(io::ErrorKind::AlreadyExists, path))?;
        let (dir, names) = self.find_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.to_owned(), names.live.get(name).copied()))
    }

    /// Changes names as programs see them or as the disk has them. A file is taken only from where it is: where an
    /// earlier change was lost in a crash, this one is, too, so that nothing ever stands under two names.
    fn apply(&mut self, change: &NameChange, view: fn(&mut Names) -> &mut BTreeMap<String, Number>) {
        if let Some((dir, name)) = &change.from {
            match self.names_of(*dir).map(view) {
                Some(names) if names.get(name) == Some(&change.number) => drop(names.remove(name)),
                _ => return,
            }
        }
        if let Some((dir, name)) = &change.to
            && let Some(names) = self.names_of(*dir).map(view)
        {
            names.insert(name.clone(), change.number);
        }
    }

    fn names_of(&mut self, number: Number) -> Option<&mut Names> {
        match self.nodes.get_mut(&number) {
            Some(Node::Dir(names)) => Some(names),
            _ => None,
        }
    }

    fn change(&mut self, change: NameChange) {
        self.apply(&change, |names| &mut names.live);
        self.renamed.push(change);
    }

    /// Makes one name change durable.
    pub(super) fn settle(&mut self, change: &NameChange) {
        self.apply(change, |names| &mut names.durable);
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<Number> {
        let (dir, name, there) = self.place(path)?;
        if there.is_some() {
            return Err(failed(io::ErrorKind::AlreadyExists, path));
        }
        let number = self.nodes.last_key_value().map_or(ROOT, |(last, _)| last + 1);
        self.nodes.insert(number, node);
        self.change(NameChange { number, from: None, to: Some((dir, name)) });
        Ok(number)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Number> {
        self.make(path, Node::File(Content::default()))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for name in names(path)? {
            at.push(name);
            match self.make(&at, Node::Dir(Names::default())) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => drop(made?),
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

    fn unlink(&mut self, path: &Path, number: Number) -> io::Result<()> {
        let (dir, name, _) = self.place(path)?;
        self.change(NameChange { number, from: Some((dir, name)), to: None });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let number = self.find(from)?;
        let (from_dir, from_name, _) = self.place(from)?;
        let (to_dir, to_name, there) = self.place(to)?;
        if there == Some(number) {
            return Ok(());
        }
        let is_dir = self.directory(number).is_some();
        if is_dir && names(to)?.starts_with(&names(from)?) {
            return Err(failed(io::ErrorKind::InvalidInput, to));
        }
        match (is_dir, there.map(|there| self.directory(there))) {
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

    /// Makes the name changes of a directory durable, and with them whatever they stand on: a rename between two
    /// directories is one change, so a sync of either takes it along.
    pub(super) fn sync_dir(&mut self, number: Number) {
        let mut touched = vec![number];
        let (mut durable, mut waiting) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.renamed).into_iter().rev() {
            if change.places().any(|(dir, _)| touched.contains(dir)) {
                touched.extend(change.places().map(|(dir, _)| *dir));
                durable.push(change);
            } else {
                waiting.push(change);
            }
        }
        waiting.reverse();
        self.renamed = waiting;
        for change in durable.iter().rev() {
            self.settle(change);
        }
    }

    /// Every file's path, sorted.
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

impl Content {
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = position(offset, bytes.len())?;
        self.edit(Edit::Write { offset, bytes: bytes.into() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = position(len, 0)?;
        self.edit(Edit::SetLen(len));
        Ok(())
    }

    fn edit(&mut self, edit: Edit) {
        edit.apply(Arc::make_mut(&mut self.live));
        self.unsynced.push(edit);
    }

    /// Makes durable what waits for it. As on Linux, that is no answer to an open file that has not been told yet of an
    /// earlier failure: `told` counts those that it knows, and the last failure comes back where there are more.
    pub(super) fn sync(&mut self, told: usize) -> Option<Fault> {
        if !self.unsynced.is_empty() {
            self.settle();
        }
        self.failures.get(told..).and_then(|untold| untold.last()).copied()
    }

    fn settle(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        for edit in self.unsynced.drain(..) {
            edit.apply(durable);
        }
    }

    /// A sync that failed: as Linux does it, the pages count as clean from now on and show their bytes, but those never
    /// reach the disk, and the next sync knows nothing of them.
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

fn position(offset: u64, len: usize) -> io::Result<usize> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    if offset.saturating_add(len) > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(offset)
}
