//! Encodings whose bytes sort in the order of the encoded values: keys without loss, and indexed values truncated.
//!
//! No encoding is a prefix of another one of the same kind, so more bytes can follow without changing the order.

use std::sync::Arc;

use crate::error::Result;
use crate::format::key::{Key, KeyType};
use crate::format::key_columns::{CompositeKey, KeyPart};
use crate::format::msgpack::{self, MsgpackItem};
use crate::limits;

/// A value that an index can contain. Null, arrays and objects are not indexed, because comparisons do not order them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// A boolean.
    Bool(bool),
    /// An integer from -2^63 to 2^64-1.
    Int(i128),
    /// Any other number; never NaN or infinite.
    Float(f64),
    /// Text.
    Str(&'a str),
}

/// The kind of an indexed value, and the first byte of its encoding.
///
/// All values of a kind are between the bytes `[kind]` and `[kind + 1]`, neither of which encodes a value. The numbers are odd,
/// so that the upper bound of one kind is not the lower bound of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ScalarKind {
    /// Booleans.
    Bool = 1,
    /// Integers and floats, in one order.
    Number = 3,
    /// Texts.
    Text = 5,
}

impl ScalarKind {
    /// Bytes that sort before every value of the kind.
    pub fn below(self) -> Vec<u8> {
        vec![self as u8]
    }

    /// Bytes that sort after every value of the kind.
    pub fn above(self) -> Vec<u8> {
        vec![self as u8 + 1]
    }
}

/// In an entry of a composite index: the column has no value that is indexed. It sorts after all values.
pub(crate) const ABSENT: u8 = 7;
/// In an entry of a composite index of the memtable: the event does not say which value the column has.
pub(crate) const UNKNOWN: u8 = 9;

impl Scalar<'_> {
    /// The kind of the value. Values compare only within a kind.
    pub fn kind(self) -> ScalarKind {
        match self {
            Scalar::Bool(_) => ScalarKind::Bool,
            Scalar::Int(_) | Scalar::Float(_) => ScalarKind::Number,
            Scalar::Str(_) => ScalarKind::Text,
        }
    }
}

/// Appends a key. The encodings of keys of one type sort as the keys do.
pub(crate) fn write_key(out: &mut Vec<u8>, key: &Key) {
    match key {
        // The flipped sign bit makes negative numbers sort before the others.
        Key::Int(int) => write_key_int(out, *int),
        Key::Str(text) => write_text(out, text.as_bytes()),
        Key::Composite(key) => {
            for part in key.parts() {
                match part {
                    KeyPart::Int(int) => write_key_int(out, *int),
                    KeyPart::Str(text) => write_text(out, text.as_bytes()),
                }
            }
        }
    }
}

fn write_key_int(out: &mut Vec<u8>, int: i64) {
    out.extend_from_slice(&(int ^ i64::MIN).to_be_bytes());
}

/// Reads a key from the front of any bytes, and returns the bytes after it; `None` if they are not a key of the type.
pub fn read_key(bytes: &[u8], key_type: KeyType) -> Option<(Key, &[u8])> {
    match key_type {
        KeyType::Int => read_int(bytes).map(|(int, rest)| (Key::Int(int), rest)),
        KeyType::String => read_text(bytes).map(|(text, rest)| (Key::Str(text), rest)),
        KeyType::Composite(types) => {
            let (mut parts, mut rest, mut text_bytes) = (Vec::with_capacity(types.count()), bytes, 0);
            for is_int in types.are_ints() {
                if is_int {
                    let (int, after) = read_int(rest)?;
                    parts.push(KeyPart::Int(int));
                    rest = after;
                } else {
                    let (text, after) = read_text(rest)?;
                    text_bytes += text.len();
                    parts.push(KeyPart::Str(text));
                    rest = after;
                }
            }
            (text_bytes <= limits::KEY_BYTES).then(|| (Key::of_columns(CompositeKey::new(parts)), rest))
        }
    }
}

fn read_int(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (int, rest) = bytes.split_first_chunk::<8>()?;
    Some((i64::from_be_bytes(*int) ^ i64::MIN, rest))
}

fn read_text(bytes: &[u8]) -> Option<(Arc<str>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0)?;
        let (plain, after) = rest.split_at_checked(zero)?;
        if text.len() + plain.len() > limits::KEY_BYTES {
            return None;
        }
        match after {
            [0, ESCAPED, after @ ..] => {
                text.extend_from_slice(plain);
                text.push(0);
                rest = after;
            }
            [0, END, after @ ..] => {
                // Most texts have no escapes: then the bytes are the text.
                let bytes = match text.is_empty() {
                    true => plain,
                    false => {
                        text.extend_from_slice(plain);
                        &text
                    }
                };
                let text: Arc<str> = std::str::from_utf8(bytes).ok()?.into();
                let allowed = (1..=limits::KEY_BYTES).contains(&text.len());
                return allowed.then_some((text, after));
            }
            _ => return None,
        }
    }
}

/// After a zero byte: the text contains a zero byte here.
const ESCAPED: u8 = 0xff;
/// After a zero byte: the text ends here. Less than `ESCAPED`, so that a text sorts before the texts that it is a prefix of.
const END: u8 = 0x01;

fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        out.push(*byte);
        if *byte == 0 {
            out.push(ESCAPED);
        }
    }
}

pub(super) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    write_escaped(out, text);
    out.extend_from_slice(&[0, END]);
}

/// Appends an indexed value. For values `a < b` of one kind, the bytes of `a` are less than or equal to those of `b`.
///
/// They can be equal, because numbers are rounded to 64-bit floats and texts are truncated to
/// [`limits::INDEX_TEXT_BYTES`]. So an index only finds candidates, which must be compared again, and both bounds of a search
/// must be inclusive: a value above `b` can have the bytes of `b`.
pub fn write_scalar(out: &mut Vec<u8>, value: Scalar<'_>) {
    out.push(value.kind() as u8);
    match value {
        Scalar::Bool(value) => out.push(value.into()),
        #[expect(
            clippy::cast_precision_loss,
            reason = "rounding keeps the order, which is all that an index needs"
        )]
        Scalar::Int(int) => write_number(out, int as f64),
        Scalar::Float(float) => write_number(out, float),
        Scalar::Str(text) => write_text(out, truncate(text.as_bytes())),
    }
}

/// Splits the key of an index entry into its value and the rest; `None` if it does not start with a value.
pub(crate) fn split_scalar(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let kind = *bytes.first()?;
    let end = if kind == ABSENT || kind == UNKNOWN {
        1
    } else if kind == ScalarKind::Bool as u8 {
        2
    } else if kind == ScalarKind::Number as u8 {
        9
    } else {
        let mut at = 1;
        loop {
            at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 2;
            if bytes.get(at - 1) == Some(&END) {
                break at;
            }
        }
    };
    bytes.split_at_checked(end)
}

/// Splits the key of an index entry into the values of its first columns and the rest.
pub(crate) fn split_columns(bytes: &[u8], columns: usize) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    for _ in 0..columns {
        (_, rest) = split_scalar(rest)?;
    }
    bytes.split_at_checked(bytes.len() - rest.len())
}

pub(super) fn write_number(out: &mut Vec<u8>, number: f64) {
    const SIGN: u64 = 1 << 63;
    // -0.0 equals 0.0.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    // The bits of positive floats sort as the floats do. Negative floats must sort first and in reverse, so all bits flip.
    let bits = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    out.extend_from_slice(&bits.to_be_bytes());
}

fn truncate(text: &[u8]) -> &[u8] {
    text.get(..limits::INDEX_TEXT_BYTES).unwrap_or(text)
}

/// The inclusive lower and upper bound of the encodings of all texts with a prefix.
pub(crate) fn prefix_bounds(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut low = Vec::new();
    write_scalar(&mut low, Scalar::Str(prefix));
    if prefix.len() >= limits::INDEX_TEXT_BYTES {
        // Truncation removes everything after the prefix.
        return (low.clone(), low);
    }
    let mut high = vec![ScalarKind::Text as u8];
    write_escaped(&mut high, prefix.as_bytes());
    // UTF-8 never contains this byte, so it sorts after everything that can follow.
    high.push(0xff);
    (low, high)
}

/// The prefix for which [`prefix_bounds`] returns these bounds; `None` if none exists, or if the prefix fills the truncated text.
pub(crate) fn prefix_within(low: &[u8], high: &[u8]) -> Option<String> {
    let text = low.strip_prefix(&[ScalarKind::Text as u8])?;
    let (Key::Str(prefix), []) = read_key(text, KeyType::String)? else { return None };
    let (_, expected) = prefix_bounds(&prefix);
    (expected == high && low != high).then(|| prefix.as_ref().to_owned())
}

/// The indexed value of an encoded value; `None` for null, arrays and objects.
pub fn scalar_of(encoded: &[u8]) -> Result<Option<Scalar<'_>>> {
    Ok(match msgpack::first(encoded)? {
        MsgpackItem::Bool(value) => Some(Scalar::Bool(value)),
        MsgpackItem::Int(int) => Some(Scalar::Int(int)),
        MsgpackItem::Float(float) => Some(Scalar::Float(float)),
        MsgpackItem::Str(text) => Some(Scalar::Str(text)),
        MsgpackItem::Nil | MsgpackItem::Array(_) | MsgpackItem::Map(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::format::value::{Value, compare_int_float};

    fn key_bytes(key: &Key) -> Vec<u8> {
        let mut out = Vec::new();
        write_key(&mut out, key);
        out
    }

    fn bytes(scalar: Scalar<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        write_scalar(&mut out, scalar);
        out
    }

    fn any_key(key_type: KeyType) -> BoxedStrategy<Key> {
        match key_type {
            KeyType::Int => prop_oneof![any::<i64>(), -3i64..4].prop_map(Key::Int).boxed(),
            KeyType::String => prop_oneof![3 => "[\0\u{1}aé\u{ff}\u{10ffff}]{1,6}", 1 => "\\PC{1,20}"]
                .prop_map(|text| Key::Str(text.into()))
                .boxed(),
            KeyType::Composite(types) => {
                let columns: Vec<_> =
                    types.are_ints().map(|is_int| any_key(KeyType::of_column(is_int))).collect();
                columns
                    .prop_map(|parts| parts.into_iter().filter_map(Key::into_part).collect())
                    .prop_map(|parts| Key::of_columns(CompositeKey::new(parts)))
                    .boxed()
            }
        }
    }

    fn composite(name: &str) -> KeyType {
        name.parse().unwrap()
    }

    /// A key with the first column of `a`, and the other ones of `b`.
    fn with_first_of(a: &Key, b: &Key) -> Key {
        let (Key::Composite(a), Key::Composite(b)) = (a, b) else { panic!("{a} {b}") };
        Key::of_columns(CompositeKey::new([&a.parts()[..1], &b.parts()[1..]].concat()))
    }

    /// The first columns of a key.
    fn first_columns(key: &Key, count: usize) -> Key {
        let Key::Composite(key) = key else { panic!("{key}") };
        Key::of_columns(CompositeKey::new(key.parts()[..count].to_vec()))
    }

    fn any_number() -> impl Strategy<Value = Scalar<'static>> {
        prop_oneof![
            any::<i64>().prop_map(|int| Scalar::Int(int.into())),
            any::<u64>().prop_map(|int| Scalar::Int(int.into())),
            (-3i64..4, 50u32..64).prop_map(|(n, power)| Scalar::Int((1i128 << power) + i128::from(n))),
            (-3i64..4).prop_map(|int| Scalar::Int(int.into())),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Scalar::Float),
            (-6i32..7).prop_map(|n| Scalar::Float(f64::from(n) / 2.0)),
            Just(Scalar::Float(-0.0)),
        ]
    }

    fn order(a: Scalar<'_>, b: Scalar<'_>) -> Ordering {
        match (a, b) {
            (Scalar::Int(a), Scalar::Int(b)) => a.cmp(&b),
            (Scalar::Float(a), Scalar::Float(b)) => a.partial_cmp(&b).unwrap(),
            (Scalar::Int(a), Scalar::Float(b)) => compare_int_float(a, b).unwrap(),
            (Scalar::Float(a), Scalar::Int(b)) => compare_int_float(b, a).unwrap().reverse(),
            (Scalar::Str(a), Scalar::Str(b)) => a.cmp(b),
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(&b),
            other => panic!("{other:?}"),
        }
    }

    fn check_order(a: Scalar<'_>, b: Scalar<'_>) {
        let (bytes_a, bytes_b) = (bytes(a), bytes(b));
        match order(a, b) {
            Ordering::Less => assert!(bytes_a <= bytes_b, "{a:?} {b:?}"),
            Ordering::Equal => assert_eq!(bytes_a, bytes_b, "{a:?} {b:?}"),
            Ordering::Greater => assert!(bytes_a >= bytes_b, "{a:?} {b:?}"),
        }
        assert!(bytes_a == bytes_b || !bytes_b.starts_with(&bytes_a), "{a:?} {b:?}");
        assert!(a.kind().below() < bytes_a && bytes_a < a.kind().above());
    }

    fn check_order_and_round_trip(a: &Key, b: &Key) {
        let (bytes_a, bytes_b) = (key_bytes(a), key_bytes(b));
        assert_eq!(a.cmp(b), bytes_a.cmp(&bytes_b), "{a} {b}");
        assert!(a == b || !bytes_b.starts_with(&bytes_a), "{a} {b}");
        let both = [bytes_a, bytes_b.clone()].concat();
        assert_eq!(read_key(&both, a.key_type()), Some((a.clone(), &bytes_b[..])));
    }

    proptest! {
        #[test]
        fn string_keys_sort_and_round_trip(a in any_key(KeyType::String), b in any_key(KeyType::String)) {
            check_order_and_round_trip(&a, &b);
        }

        #[test]
        fn int_keys_sort_and_round_trip(a in any_key(KeyType::Int), b in any_key(KeyType::Int)) {
            check_order_and_round_trip(&a, &b);
        }

        #[test]
        fn composite_keys_sort_and_round_trip(
            (a, b) in prop_oneof![
                Just(composite("(STRING, INT)")), Just(composite("(INT, STRING)")), Just(composite("(STRING, STRING, INT)"))
            ].prop_flat_map(|of| (any_key(of), any_key(of))),
            shares in any::<bool>(),
        ) {
            // Keys with the same first column are compared by the next.
            let b = if shares { with_first_of(&a, &b) } else { b };
            check_order_and_round_trip(&a, &b);
            // A bound of the first columns has its place among the keys.
            let bound = first_columns(&b, 1);
            prop_assert_eq!(a.cmp(&bound), key_bytes(&a).cmp(&key_bytes(&bound)), "{} {}", a, bound);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_as_one_key(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..20)) {
            for key_type in [KeyType::Int, KeyType::String, composite("(STRING, INT)"), composite("(INT, STRING)")] {
                if let Some((key, rest)) = read_key(&bytes, key_type) {
                    prop_assert_eq!([&key_bytes(&key), rest].concat(), &bytes[..], "a key has one encoding");
                }
            }
        }

        #[test]
        fn numbers_keep_their_order(a in any_number(), b in any_number()) {
            check_order(a, b);
        }

        #[test]
        fn texts_keep_their_order(
            // Around the truncation, with zero bytes and multi-byte characters across it.
            shared in (250usize..260).prop_map(|len| "x".repeat(len)),
            a in "[\0aé\u{10ffff}]{0,8}",
            b in "[\0aé\u{10ffff}]{0,8}",
        ) {
            check_order(Scalar::Str(&a), Scalar::Str(&b));
            let (a, b) = (format!("{shared}{a}"), format!("{shared}{b}"));
            check_order(Scalar::Str(&a), Scalar::Str(&b));
        }

        #[test]
        fn prefix_bounds_contain_exactly_the_texts_with_the_prefix(
            len in prop_oneof![Just(0usize), 250usize..260],
            prefix in "[\0aé]{0,3}",
            rest in "[\0aé\u{10ffff}]{0,3}",
            other in "[\0aéz]{0,4}",
        ) {
            let prefix = format!("{}{prefix}", "x".repeat(len));
            let (low, high) = prefix_bounds(&prefix);
            let within = bytes(Scalar::Str(&format!("{prefix}{rest}")));
            prop_assert!(low <= within && within <= high);
            let found = prefix_within(&low, &high);
            prop_assert_eq!(found.is_some(), (1..limits::INDEX_TEXT_BYTES).contains(&prefix.len()));
            prop_assert!(found.is_none_or(|found| found == prefix));
            prop_assert_eq!(prefix_within(&low, &ScalarKind::Text.above()), None);
            let short = format!("{}{other}", "x".repeat(len));
            if !short.starts_with(&prefix) && short.len().max(prefix.len()) <= limits::INDEX_TEXT_BYTES {
                let outside = bytes(Scalar::Str(&short));
                prop_assert!(outside < low || outside > high);
            }
        }
    }

    #[test]
    fn large_integers_are_rounded_in_order() {
        let (low, high) = (Scalar::Int(1 << 53), Scalar::Int((1 << 53) + 1));
        assert_eq!(bytes(low), bytes(high));
        assert!(bytes(low) < bytes(Scalar::Int((1 << 53) + 2)));
        assert_eq!(bytes(Scalar::Int(1)), bytes(Scalar::Float(1.0)));
        assert_eq!(bytes(Scalar::Float(-0.0)), bytes(Scalar::Int(0)));
        check_order(Scalar::Bool(false), Scalar::Bool(true));
    }

    #[test]
    fn known_encodings_of_keys() {
        assert_eq!(key_bytes(&Key::Int(-1)), [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(key_bytes(&Key::Int(1)), [0x80, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(key_bytes(&Key::Str("a\0b".into())), [b'a', 0, 0xff, b'b', 0, 1]);
        let pair = Key::parse(r#"["a",1]"#, composite("(STRING, INT)")).unwrap();
        assert_eq!(key_bytes(&pair), [b'a', 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn invalid_keys_are_refused() {
        let long = |len: usize| [vec![b'x'; len], vec![0, 1]].concat();
        assert!(read_key(&long(limits::KEY_BYTES), KeyType::String).is_some());
        for bytes in
            [&b""[..], b"\0\x01", b"a", b"a\0", b"a\0\x02", b"\xff\0\x01", &long(limits::KEY_BYTES + 1)]
        {
            assert_eq!(read_key(bytes, KeyType::String), None, "{bytes:?}");
        }
        assert_eq!(read_key(&[0; 7], KeyType::Int), None);
    }

    #[test]
    fn null_and_containers_are_not_indexed() {
        for (value, indexed) in [
            (Value::Null, false),
            (Value::Array(vec![Value::Int(1)]), false),
            (Value::Object(vec![]), false),
            (Value::Bool(true), true),
            (Value::Int(-5), true),
            (Value::Float(0.5), true),
            (Value::Str("x".into()), true),
        ] {
            let mut encoded = Vec::new();
            value.encode(&mut encoded);
            assert_eq!(scalar_of(&encoded).unwrap().is_some(), indexed, "{value:?}");
        }
        assert!(scalar_of(&[]).is_err());
    }
}
