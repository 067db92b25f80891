//! Variable-length integers: LEB128, seven bits in each byte, lowest bits first, in the shortest form only.
//!
//! One form for each number means that no two frames and no two snapshot entries differ only in how a length is written.
//! The crates that encode LEB128 accept a value whose tenth byte does not fit into 64 bits, or a form that is too long.

/// Bytes of the longest varint: 64 bits, seven in each byte.
const BYTES_MAX: usize = 10;

/// Appends a number.
pub(super) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the loop leaves less than 0x80")]
    out.push(value as u8);
}

/// Reads a number from the front of `bytes`, and returns the bytes after it. `None` if the bytes end too early, if the
/// number needs more than 64 bits, or if a shorter form exists.
pub(super) fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    // Nearly all numbers are short. A byte of zero at the end is a form that is too long.
    match bytes {
        [a @ 0..0x80, rest @ ..] => Some(((*a).into(), rest)),
        [_, 0, ..] | [_, 0x80..=0xff, 0, ..] => None,
        [a, b @ 0..0x80, rest @ ..] => Some((low_bits(*a) | u64::from(*b) << 7, rest)),
        [a, b, c @ 0..0x80, rest @ ..] => {
            Some((low_bits(*a) | low_bits(*b) << 7 | u64::from(*c) << 14, rest))
        }
        _ => read_long(bytes),
    }
}

fn low_bits(byte: u8) -> u64 {
    (byte & 0x7f).into()
}

/// The same for numbers of any length.
fn read_long(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    for (i, byte) in bytes.iter().enumerate().take(BYTES_MAX) {
        let bits = low_bits(*byte);
        let shift = 7 * u32::try_from(i).ok()?;
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            let is_shortest = *byte != 0 || i == 0;
            return is_shortest.then_some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings() {
        for (value, encoded) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            let mut out = Vec::new();
            write(&mut out, value);
            assert_eq!(out, encoded, "{value}");
            assert_eq!(read(encoded), Some((value, &[][..])), "{value}");
        }
    }

    #[test]
    fn read_refuses_long_forms_and_large_numbers() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0x80, 0x00],
            &[0xff, 0x80, 0x00],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00],
        ] {
            assert_eq!(read(bytes), None, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_round_trips(value in any::<u64>(), bits in 0u32..64, rest in prop::collection::vec(any::<u8>(), 0..3)) {
            let value = value >> bits;
            let mut out = Vec::new();
            write(&mut out, value);
            out.extend_from_slice(&rest);
            prop_assert_eq!(read(&out), Some((value, &rest[..])));
        }

        #[test]
        fn accepted_bytes_have_one_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some((value, rest)) = read(&bytes) {
                let mut out = Vec::new();
                write(&mut out, value);
                prop_assert_eq!([&out[..], rest].concat(), bytes);
            }
        }
    }
}
