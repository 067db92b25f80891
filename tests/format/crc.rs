//! The CRC of `common/FORMAT.md`, bit by bit: slow, but independent of any library.

/// CRC-32 of IEEE 802.3 (polynomial 0xEDB88320, reflected) over the concatenated parts.
pub fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
