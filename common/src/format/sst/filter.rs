//! A blocked Bloom filter: proves that a tree does not contain an item, at about ten bits for each item.
//!
//! All bits of one item are in one line of 64 bytes (one cache line). Lines are stored in partitions, each of them one block,
//! so that a lookup reads one block however large the filter is. About 1 in 100 absent items is not recognized as absent.

use xxhash_rust::xxh3::xxh3_64;

use super::handle::{BlockHandle, HEADER_BYTES};

/// Bytes of a line.
const LINE_BYTES: usize = 64;
/// The maximum number of lines in a partition.
pub(super) const PARTITION_LINES: u32 = 128;

const BITS_PER_ITEM: u64 = 10;
const LINE_BITS: u64 = 512;
const PROBES: u32 = 6;
/// Derives the bits in a line from the hash whose high bits have already selected the partition and the line: 2⁶⁴ divided by
/// the golden ratio, rounded to an odd number.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The position and shape of a filter: partitions of one length, stored one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterHandle {
    /// The offset of the first partition's block in the file.
    pub offset: u64,
    /// The number of partitions; at least one.
    pub partitions: u32,
    /// The number of lines in each partition; at least one.
    pub lines: u32,
}

impl FilterHandle {
    /// The length of a partition's raw content, in bytes.
    pub(crate) fn partition_bytes(&self) -> usize {
        usize::try_from(self.lines.min(PARTITION_LINES)).unwrap_or(0) * LINE_BYTES
    }

    /// The handle of a partition's block. Partitions are not compressed, so their offsets follow from their numbers.
    pub fn handle(&self, partition: u64) -> BlockHandle {
        let len = u32::try_from(HEADER_BYTES + self.partition_bytes()).unwrap_or(u32::MAX);
        BlockHandle { offset: self.offset.saturating_add(partition.saturating_mul(len.into())), len }
    }
}

/// The hash of an item. All other functions of the filter take this hash.
pub fn hash(item: &[u8]) -> u64 {
    xxh3_64(item)
}

/// Divides the range of hashes into equal parts: the part of `hash`, and its position in that part, scaled to the whole range.
fn part(hash: u64, parts: u32) -> (u64, u64) {
    let wide = u128::from(hash) * u128::from(parts);
    let (part, within) = (wide >> 64, wide & u128::from(u64::MAX));
    (u64::try_from(part).unwrap_or(0), u64::try_from(within).unwrap_or(0))
}

/// The number of the partition that contains a hash. Greater hashes are in the same or a later partition.
pub fn partition(filter: &FilterHandle, hash: u64) -> u64 {
    part(hash, filter.partitions).0
}

/// The offset of a hash's line in its partition, and the hash's bits in that line, each as byte and mask.
fn bits(filter: &FilterHandle, hash: u64) -> (usize, impl Iterator<Item = (usize, u8)>) {
    let (line, _) = part(part(hash, filter.partitions).1, filter.lines);
    let line = usize::try_from(line).unwrap_or(usize::MAX).saturating_mul(LINE_BYTES);
    let spread = hash.wrapping_mul(SPREAD);
    let bits = (0..PROBES).map(move |probe| {
        let bit = spread >> (55 - 9 * probe) & (LINE_BITS - 1);
        (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8))
    });
    (line, bits)
}

/// Whether a partition may contain a hash. If the partition is too short, the answer is true, so that nothing is missed.
pub fn may_contain(filter: &FilterHandle, partition: &[u8], hash: u64) -> bool {
    let (start, mut bits) = bits(filter, hash);
    match partition.get(start..) {
        Some(line) => bits.all(|(byte, mask)| line.get(byte).is_none_or(|byte| byte & mask != 0)),
        None => true,
    }
}

/// The number of partitions of a filter for `items` items, and the lines of each partition. `None` if there are too many items.
pub(super) fn shape(items: usize) -> Option<(u32, u32)> {
    let lines = u64::try_from(items).ok()?.checked_mul(BITS_PER_ITEM)?.div_ceil(LINE_BITS).max(1);
    let partitions = lines.div_ceil(PARTITION_LINES.into());
    Some((u32::try_from(partitions).ok()?, u32::try_from(lines.div_ceil(partitions)).ok()?))
}

/// The raw content of one partition, which contains all of `hashes`.
pub(super) fn fill(filter: &FilterHandle, hashes: &[u64]) -> Vec<u8> {
    let mut partition = vec![0; filter.partition_bytes()];
    for hash in hashes {
        let (start, bits) = bits(filter, *hash);
        for (byte, mask) in bits {
            if let Some(byte) = partition.get_mut(start + byte) {
                *byte |= mask;
            }
        }
    }
    partition
}
