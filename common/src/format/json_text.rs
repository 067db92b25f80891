//! Writes text as JSON: in quotes, with escapes where JSON needs them.
//!
//! Half of the time of an answer as JSON goes into its texts, and nearly none of their bytes needs an escape. So eight bytes are
//! checked at a time, and copied with all before the next escape.

/// Each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;
/// The high bit of each byte of a word.
const HIGH: u64 = EACH << 7;

/// Appends text in quotes.
pub(super) fn push(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, after) = rest.split_at_checked(plain_len(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((byte, after)) = after.split_first() else { break };
        push_escaped(out, *byte);
        rest = after;
    }
    out.push(b'"');
}

/// The number of bytes before the first one that needs an escape.
fn plain_len(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let plain = words.iter().take_while(|word| !has_special(u64::from_le_bytes(**word))).count() * 8;
    let rest = bytes.get(plain..).unwrap_or_default();
    plain + rest.iter().take_while(|byte| !is_special(**byte)).count()
}

fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// Whether a byte of a word needs an escape.
fn has_special(word: u64) -> bool {
    // The high bit of a byte is set if the byte is less than the limit, unless it was set before. A byte above one that is less
    // can be wrong by the carry: then the answer is true anyway.
    let has_less = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word & HIGH != 0;
    let has = |byte: u8| has_less(word ^ (EACH * u64::from(byte)), 1);
    has_less(word, b' ') || has(b'"') || has(b'\\')
}

#[cold]
fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]),
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        push(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn text_is_written_as_a_json_serializer_writes_it(
            text in "[ -~\\x00-\\x22\\x5a-\\x5e\\x7f-\\u{82}é€😀]{0,40}",
            plain in "[a-z]{0,17}",
        ) {
            for text in [text.clone(), format!("{plain}{text}{plain}")] {
                prop_assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }

    #[test]
    fn every_byte_of_a_word_is_checked() {
        for byte in 0..=127_u8 {
            for at in 0..9 {
                let mut text = vec![b'~'; 9];
                text[at] = byte;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }
}
