//! What a power cut leaves of a simulated disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{Content, Names, Node, ROOT, State};

/// What a disk writes at once, whole or not at all. A write over several sectors can be torn between them, while writes to
/// one sector come in order: it is found as it was at some moment.
const SECTOR: usize = 512;

/// What becomes, at a power cut, of that which no sync has made durable.
///
/// A name change is atomic under every policy: a rename shows the old name or the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// All of it survived. (Not what a failed sync had lost already.)
    KeepAll,
    /// None of it survived.
    DropAll,
    /// By chance: each sector of a file, and its length, as it was at some moment since the last sync, and each name
    /// change made or not.
    RandomHalves(u64),
    /// As `RandomHalves`, but sectors beyond a file's synced ones may be garbage, too, and all names survived.
    GarbageTail(u64),
    /// Bytes survived, names did not.
    NoDirectoryEntries,
    /// Names survived, bytes did not: the empty file behind a fresh rename.
    NoFileContents,
    /// Another policy for each file, by chance; each name change by chance.
    Mixed(u64),
}

impl Lost {
    /// Every policy, those of chance with this seed.
    pub const fn every(seed: u64) -> [Lost; 7] {
        [
            Lost::KeepAll,
            Lost::DropAll,
            Lost::RandomHalves(seed),
            Lost::GarbageTail(seed),
            Lost::NoDirectoryEntries,
            Lost::NoFileContents,
            Lost::Mixed(seed),
        ]
    }

    fn seed(self) -> u64 {
        match self {
            Lost::RandomHalves(seed) | Lost::GarbageTail(seed) | Lost::Mixed(seed) => seed,
            _ => 0,
        }
    }
}

/// A small generator of repeatable chance (splitmix64).
struct Chance(u64);

impl Chance {
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

    /// A number below `bound`; 0 where that is 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// How many of `edits` edits have come through: often none or all.
    fn moment(&mut self, edits: usize) -> usize {
        match self.below(4) {
            0 => 0,
            1 => self.below(edits + 1),
            _ => edits,
        }
    }
}

/// The disk as found when the power is back.
pub(super) fn crash(state: &State, lost: Lost) -> State {
    let mut chance = Chance(lost.seed());
    let mut state = state.clone();
    for change in std::mem::take(&mut state.renamed) {
        let survived = match lost {
            Lost::KeepAll | Lost::GarbageTail(_) | Lost::NoFileContents => true,
            Lost::DropAll | Lost::NoDirectoryEntries => false,
            Lost::RandomHalves(_) | Lost::Mixed(_) => chance.coin(),
        };
        if survived {
            state.settle(&change);
        }
    }
    // What no durable name leads to is gone.
    let mut found = State { nodes: BTreeMap::new(), renamed: Vec::new() };
    let mut open = vec![ROOT];
    while let Some(number) = open.pop() {
        let node = match state.nodes.remove(&number) {
            Some(Node::File(content)) => Node::File(survivor(&content, lost, &mut chance)),
            Some(Node::Dir(Names { durable, .. })) => {
                open.extend(durable.values());
                Node::Dir(Names { live: durable.clone(), durable })
            }
            None => continue,
        };
        found.nodes.insert(number, node);
    }
    found
}

/// A file as found when the power is back.
fn survivor(content: &Content, lost: Lost, chance: &mut Chance) -> Content {
    let lost = match lost {
        Lost::Mixed(_) => match chance.below(4) {
            0 => Lost::KeepAll,
            1 => Lost::DropAll,
            2 => Lost::RandomHalves(0),
            _ => Lost::GarbageTail(0),
        },
        other => other,
    };
    let mut bytes = Arc::clone(&content.durable);
    if !content.unsynced.is_empty() {
        match lost {
            Lost::DropAll | Lost::NoFileContents => {}
            Lost::KeepAll | Lost::NoDirectoryEntries => {
                let bytes = Arc::make_mut(&mut bytes);
                content.unsynced.iter().for_each(|edit| edit.apply(bytes));
            }
            Lost::RandomHalves(_) | Lost::Mixed(_) => bytes = Arc::new(by_sector(content, false, chance)),
            Lost::GarbageTail(_) => bytes = Arc::new(by_sector(content, true, chance)),
        }
    }
    Content { live: Arc::clone(&bytes), durable: bytes, ..Content::default() }
}

/// Each sector as it was at a moment of its own; beyond the synced ones perhaps garbage.
fn by_sector(content: &Content, garbage: bool, chance: &mut Chance) -> Vec<u8> {
    let edits = &content.unsynced;
    let kept = chance.moment(edits.len());
    let len = edits.iter().take(kept).fold(content.durable.len(), |len, edit| edit.len_after(len));
    let mut bytes = content.durable.to_vec();
    bytes.resize(len, 0);
    for (index, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        let start = index * SECTOR;
        for edit in edits.iter().take(chance.moment(edits.len())) {
            edit.apply_to_part(sector, start);
        }
        if garbage && start >= content.durable.len() && chance.coin() {
            sector.fill_with(|| chance.byte());
        }
    }
    bytes
}
