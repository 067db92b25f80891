//! What remains of a simulated disk after a power cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{DirEntries, FileContent, Inode, ROOT, SimState};

/// The bytes that a disk writes atomically. A write over several sectors can be torn between them. Writes to one sector
/// take effect in order, so the sector is found as it was at some point in time.
const SECTOR: usize = 512;

/// What happens to unsynced changes at a power cut.
///
/// A name change is atomic under every policy: a rename leaves the old name or the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashPolicy {
    /// All unsynced changes survive, except those that a failed sync has lost already.
    KeepAll,
    /// No unsynced change survives.
    DropAll,
    /// Random: each sector of a file, and the file's length, is as it was at some point in time since the last sync,
    /// and each name change survives or not.
    RandomHalves(u64),
    /// As `RandomHalves`, but sectors beyond a file's synced ones may contain garbage, and all name changes survive.
    GarbageTail(u64),
    /// Bytes survive, name changes do not.
    NoDirectoryEntries,
    /// Name changes survive, bytes do not: an empty file behind a fresh rename.
    NoFileContents,
    /// A random policy for each file, and each name change survives or not.
    Mixed(u64),
}

impl CrashPolicy {
    /// Returns every policy; the random ones use this seed.
    pub const fn all(seed: u64) -> [CrashPolicy; 7] {
        [
            CrashPolicy::KeepAll,
            CrashPolicy::DropAll,
            CrashPolicy::RandomHalves(seed),
            CrashPolicy::GarbageTail(seed),
            CrashPolicy::NoDirectoryEntries,
            CrashPolicy::NoFileContents,
            CrashPolicy::Mixed(seed),
        ]
    }

    fn seed(self) -> u64 {
        match self {
            CrashPolicy::RandomHalves(seed) | CrashPolicy::GarbageTail(seed) | CrashPolicy::Mixed(seed) => {
                seed
            }
            _ => 0,
        }
    }
}

/// A small, repeatable random number generator (splitmix64).
struct CrashRng(u64);

impl CrashRng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Returns a number below `bound`; 0 if `bound` is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Returns how many of `edits` edits survive: often none or all.
    fn surviving_edits(&mut self, edits: usize) -> usize {
        match self.below(4) {
            0 => 0,
            1 => self.below(edits + 1),
            _ => edits,
        }
    }
}

/// Returns the disk as found after a power cut.
pub(super) fn survivors(state: &SimState, policy: CrashPolicy) -> SimState {
    let mut rng = CrashRng(policy.seed());
    let mut state = state.clone();
    for change in std::mem::take(&mut state.unsynced_names) {
        let survived = match policy {
            CrashPolicy::KeepAll | CrashPolicy::GarbageTail(_) | CrashPolicy::NoFileContents => true,
            CrashPolicy::DropAll | CrashPolicy::NoDirectoryEntries => false,
            CrashPolicy::RandomHalves(_) | CrashPolicy::Mixed(_) => rng.coin(),
        };
        if survived {
            state.make_durable(&change);
        }
    }
    // Only inodes that a durable name leads to survive.
    let mut found = SimState { inodes: BTreeMap::new(), unsynced_names: Vec::new() };
    let mut open = vec![ROOT];
    while let Some(number) = open.pop() {
        let inode = match state.inodes.remove(&number) {
            Some(Inode::File(content)) => Inode::File(surviving_content(&content, policy, &mut rng)),
            Some(Inode::Dir(DirEntries { durable, .. })) => {
                open.extend(durable.values());
                Inode::Dir(DirEntries { live: durable.clone(), durable })
            }
            None => continue,
        };
        found.inodes.insert(number, inode);
    }
    found
}

/// Returns a file's content as found after a power cut.
fn surviving_content(content: &FileContent, policy: CrashPolicy, rng: &mut CrashRng) -> FileContent {
    let policy = match policy {
        CrashPolicy::Mixed(_) => match rng.below(4) {
            0 => CrashPolicy::KeepAll,
            1 => CrashPolicy::DropAll,
            2 => CrashPolicy::RandomHalves(0),
            _ => CrashPolicy::GarbageTail(0),
        },
        other => other,
    };
    let mut bytes = Arc::clone(&content.durable);
    if !content.unsynced.is_empty() {
        match policy {
            CrashPolicy::DropAll | CrashPolicy::NoFileContents => {}
            CrashPolicy::KeepAll | CrashPolicy::NoDirectoryEntries => {
                let bytes = Arc::make_mut(&mut bytes);
                content.unsynced.iter().for_each(|edit| edit.apply(bytes));
            }
            CrashPolicy::RandomHalves(_) | CrashPolicy::Mixed(_) => {
                bytes = Arc::new(by_sector(content, false, rng));
            }
            CrashPolicy::GarbageTail(_) => bytes = Arc::new(by_sector(content, true, rng)),
        }
    }
    FileContent { live: Arc::clone(&bytes), durable: bytes, ..FileContent::default() }
}

/// Returns a file's bytes with each sector as it was at its own point in time. With `garbage`, sectors beyond the
/// synced ones may contain random bytes.
fn by_sector(content: &FileContent, garbage: bool, rng: &mut CrashRng) -> Vec<u8> {
    let edits = &content.unsynced;
    let kept = rng.surviving_edits(edits.len());
    let len = edits.iter().take(kept).fold(content.durable.len(), |len, edit| edit.len_after(len));
    let mut bytes = content.durable.to_vec();
    bytes.resize(len, 0);
    for (index, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let start = index * SECTOR;
        for edit in edits.iter().take(rng.surviving_edits(edits.len())) {
            edit.apply_to_part(sector, start);
        }
        if garbage && start >= content.durable.len() && rng.coin() {
            sector.fill_with(|| rng.byte());
        }
    }
    bytes
}
