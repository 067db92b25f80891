//! The file descriptors of a process: how many each use may hold, and which file to close when a use has too many.
//!
//! A daemon that runs out of descriptors cannot create the next segment, so no use may take what another needs. The limit of the
//! process (`RLIMIT_NOFILE`) is divided once, into shares that do not depend on the load. The number of tables is not limited by
//! it: files of the log are opened when they are needed, and those that were not used for the longest time are closed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::limits;
use crate::storage::fs::{File, FileSystem};

/// How often spare descriptors that were given up are taken again.
const SPARES_EVERY: Duration = Duration::from_secs(1);

/// Connections are accepted even under a tiny limit.
const CONNECTIONS_LEAST: usize = 8;

/// How many descriptors each use may hold. [`limits::RESERVED_DESCRIPTORS`] are in no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorShares {
    /// Network connections, for the server: half of the descriptors.
    pub connections: usize,
    /// Files of the log: active segments in a writer, segments that are being read in a reader.
    pub log_files: usize,
    /// SSTs that the block cache keeps open.
    pub sst_files: usize,
}

impl DescriptorShares {
    /// The shares of this process, under its present soft limit.
    pub fn of_process() -> DescriptorShares {
        DescriptorShares::of_limit(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// The shares of a process that may open `limit` files. Every share has at least one.
    pub fn of_limit(limit: u64) -> DescriptorShares {
        let shared =
            usize::try_from(limit.saturating_sub(limits::RESERVED_DESCRIPTORS)).unwrap_or(usize::MAX);
        let connections = shared / 2;
        let files = shared - connections;
        let sst_files = (files / 2).clamp(1, limits::OPEN_SST_FILES);
        let log_files = files.saturating_sub(sst_files).clamp(1, limits::OPEN_LOG_FILES);
        DescriptorShares { connections: connections.max(CONNECTIONS_LEAST), log_files, sst_files }
    }
}

/// Open files by id, in the order of their last use.
#[derive(Debug)]
pub(crate) struct RecentlyUsed {
    limit: usize,
    uses: u64,
    by_use: BTreeMap<u64, u64>,
    last_use: HashMap<u64, u64>,
}

impl RecentlyUsed {
    /// No files, of which at most `limit` may be open.
    pub(crate) fn new(limit: usize) -> RecentlyUsed {
        RecentlyUsed { limit: limit.max(1), uses: 0, by_use: BTreeMap::new(), last_use: HashMap::new() }
    }

    /// Returns how many files may be open.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many files are open.
    pub(crate) fn len(&self) -> usize {
        self.last_use.len()
    }

    /// Records the use of a file. Returns the file to close, if too many are open now.
    pub(crate) fn touch(&mut self, id: u64) -> Option<u64> {
        if self.last_use.get(&id) == Some(&self.uses) {
            return None;
        }
        self.uses += 1;
        if let Some(before) = self.last_use.insert(id, self.uses) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.uses, id);
        if self.last_use.len() > self.limit { self.pop_oldest() } else { None }
    }

    /// Removes a file that was closed.
    pub(crate) fn remove(&mut self, id: u64) {
        if let Some(used) = self.last_use.remove(&id) {
            self.by_use.remove(&used);
        }
    }

    /// Removes the file that was not used for the longest time, and returns it for the caller to close.
    pub(crate) fn pop_oldest(&mut self) -> Option<u64> {
        let (_, id) = self.by_use.pop_first()?;
        self.last_use.remove(&id);
        Some(id)
    }
}

/// Descriptors that are held only to be given up: connections and other uses may take all others of the process, and the log
/// must still be able to open its next file.
#[derive(Debug)]
pub(crate) struct SpareDescriptors {
    fs: Arc<dyn FileSystem>,
    /// Any file that exists.
    path: PathBuf,
    held: Vec<Box<dyn File>>,
    given_up_at: Option<Instant>,
}

impl SpareDescriptors {
    /// Takes the spare descriptors, as far as the process has them.
    pub(crate) fn take(fs: Arc<dyn FileSystem>, path: PathBuf) -> SpareDescriptors {
        let mut spares = SpareDescriptors { fs, path, held: Vec::new(), given_up_at: None };
        spares.fill();
        spares
    }

    fn fill(&mut self) {
        while self.held.len() < limits::SPARE_DESCRIPTORS {
            let Ok(file) = self.fs.open(&self.path) else { break };
            self.held.push(file);
        }
    }

    /// Closes the spare descriptors. Returns whether there were any.
    pub(crate) fn give_up(&mut self) -> bool {
        self.given_up_at = Some(Instant::now());
        !std::mem::take(&mut self.held).is_empty()
    }

    /// Takes the spare descriptors again, some time after they were given up.
    pub(crate) fn retake(&mut self) {
        if self.given_up_at.is_some_and(|at| at.elapsed() >= SPARES_EVERY) {
            self.fill();
            let is_full = self.held.len() >= limits::SPARE_DESCRIPTORS;
            self.given_up_at = (!is_full).then(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_stay_below_the_limit_and_none_is_empty() {
        for limit in [0, 64, 80, 128, 256, 1024, 4096, 20_000, 1 << 20, u64::MAX] {
            let DescriptorShares { connections, log_files, sst_files } = DescriptorShares::of_limit(limit);
            assert!(connections > 0 && log_files > 0 && sst_files > 0, "{limit}");
            let all = connections as u64 + log_files as u64 + sst_files as u64;
            assert!(
                all + limits::RESERVED_DESCRIPTORS <= limit.max(limits::RESERVED_DESCRIPTORS + 16),
                "{limit}"
            );
        }
        let usual = DescriptorShares::of_limit(1024);
        assert_eq!(usual, DescriptorShares { connections: 480, log_files: 240, sst_files: 240 });
    }

    #[test]
    fn the_file_that_was_not_used_for_the_longest_time_is_closed() {
        let mut used = RecentlyUsed::new(2);
        assert_eq!([used.touch(1), used.touch(2), used.touch(1), used.touch(1)], [None; 4]);
        assert_eq!(used.touch(3), Some(2));
        used.remove(1);
        assert_eq!((used.touch(4), used.touch(5)), (None, Some(3)));
        assert_eq!((used.pop_oldest(), used.pop_oldest(), used.pop_oldest()), (Some(4), Some(5), None));
    }
}
