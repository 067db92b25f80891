//! The filter: says of most bytes that are not in a tree that they are not, for ten bits each.
//!
//! A Bloom filter whose bits for one item all lie in one line of 64 bytes. Lines are stored in partitions, each a block
//! of its own, so that a look needs one block however large the filter is.

use xxhash_rust::xxh3::xxh3_64;

use super::FilterHandle;

/// Bytes of a line.
pub const LINE_BYTES: usize = 64;
/// The most lines of a partition.
pub const PARTITION_LINES: u32 = 128;

const BITS_PER_ITEM: u64 = 10;
const LINE_BITS: u64 = 512;
const PROBES: u32 = 6;
/// Spreads what is left of a hash once its partition and line are known: 2⁶⁴ divided by the golden ratio, made odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a filter keeps of an item.
pub fn hash(item: &[u8]) -> u64 {
    xxh3_64(item)
}

/// Where a hash falls, of so many equal parts, and where in that part, again over the whole range.
fn part(hash: u64, parts: u32) -> (u64, u64) {
    let wide = u128::from(hash) * u128::from(parts);
    let (part, within) = (wide >> 64, wide & u128::from(u64::MAX));
    (u64::try_from(part).unwrap_or(0), u64::try_from(within).unwrap_or(0))
}

/// The partition of a filter that a hash is in. Greater hashes are in the same one or in later ones.
pub fn partition(place: &FilterHandle, hash: u64) -> u64 {
    part(hash, place.partitions).0
}

/// Where a hash's line starts in its partition, and its bits in that line, as byte and mask.
fn bits(place: &FilterHandle, hash: u64) -> (usize, impl Iterator<Item = (usize, u8)>) {
    let (line, _) = part(part(hash, place.partitions).1, place.lines);
    let line = usize::try_from(line).unwrap_or(usize::MAX).saturating_mul(LINE_BYTES);
    let spread = hash.wrapping_mul(SPREAD);
    let bits = (0..PROBES).map(move |probe| {
        let bit = spread >> (55 - 9 * probe) & (LINE_BITS - 1);
        (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8))
    });
    (line, bits)
}

/// Whether a partition may hold a hash. A line that is not there counts as full.
pub fn may_contain(place: &FilterHandle, partition: &[u8], hash: u64) -> bool {
    let (start, mut bits) = bits(place, hash);
    match partition.get(start..) {
        Some(line) => bits.all(|(byte, mask)| line.get(byte).is_none_or(|byte| byte & mask != 0)),
        None => true,
    }
}

/// How many partitions a filter for so many items has, and how many lines each of them.
pub(super) fn shape(items: usize) -> Option<(u32, u32)> {
    let lines = u64::try_from(items).ok()?.checked_mul(BITS_PER_ITEM)?.div_ceil(LINE_BITS).max(1);
    let partitions = lines.div_ceil(PARTITION_LINES.into());
    Some((u32::try_from(partitions).ok()?, u32::try_from(lines.div_ceil(partitions)).ok()?))
}

/// The bytes of one partition with these hashes, which are all in it.
pub(super) fn fill(place: &FilterHandle, hashes: &[u64]) -> Vec<u8> {
    let mut partition = vec![0; place.partition_bytes()];
    for hash in hashes {
        let (start, bits) = bits(place, *hash);
        for (byte, mask) in bits {
            if let Some(byte) = partition.get_mut(start + byte) {
                *byte |= mask;
            }
        }
    }
    partition
}
