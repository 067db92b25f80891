//! LIKE patterns: `%`, `_` and literal characters.
//!
//! A pattern comes from outside and so does the text, so the time to match must not explode for any pair. The pattern is
//! split at each `%` into segments, and each segment is looked for behind the one before it: the first place at which it
//! fits is as good as any later one. Looking for plain text takes linear time. A segment with `_` is looked for with
//! Shift-And (Baeza-Yates and Gonnet, 1992): one bit for each of its characters, all moved on together for each character
//! of the text.

use std::collections::HashMap;
use std::fmt;
use std::str::Chars;
use std::sync::Arc;

use crate::error::Result;
use crate::work;

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternStep {
    /// `%`
    AnyText,
    /// `_`
    AnyChar,
    /// Any other character, or any character after `\`.
    Char(char),
}

/// Reads the next element of a pattern. A `\` at the very end matches itself.
fn step(pattern: &mut Chars<'_>) -> Option<PatternStep> {
    Some(match pattern.next()? {
        '%' => PatternStep::AnyText,
        '_' => PatternStep::AnyChar,
        '\\' => PatternStep::Char(pattern.next().unwrap_or('\\')),
        c => PatternStep::Char(c),
    })
}

/// A pattern, ready to match many texts. Clones share it.
#[derive(Clone)]
pub struct LikePattern(Arc<SplitPattern>);

#[derive(Debug)]
struct SplitPattern {
    text: String,
    /// What stands between two `%`, without empty ones.
    segments: Vec<PatternPart>,
    /// Whether the pattern begins with `%`.
    starts_open: bool,
    /// Whether the pattern ends with `%`.
    ends_open: bool,
}

#[derive(Debug)]
enum PatternPart {
    /// Literal characters only.
    Text(String),
    /// At least one `_`.
    Steps(Vec<PatternStep>),
}

impl fmt::Debug for LikePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq for LikePattern {
    fn eq(&self, other: &LikePattern) -> bool {
        self.as_str() == other.as_str()
    }
}

/// A text in lower case, as ILIKE compares it: character by character, without the rules of a language or of a word's end.
pub fn lower_case(text: &str) -> String {
    match text.is_ascii() {
        true => text.to_ascii_lowercase(),
        false => text.chars().flat_map(char::to_lowercase).collect(),
    }
}

impl LikePattern {
    /// A pattern as written.
    pub fn new(text: impl Into<String>) -> LikePattern {
        let text = text.into();
        let mut steps = text.chars();
        let (mut segments, mut segment) = (Vec::new(), Vec::new());
        let (mut starts_open, mut ends_open) = (false, false);
        while let Some(step) = step(&mut steps) {
            ends_open = step == PatternStep::AnyText;
            match step {
                PatternStep::AnyText if segment.is_empty() => starts_open |= segments.is_empty(),
                PatternStep::AnyText => segments.push(PatternPart::new(std::mem::take(&mut segment))),
                step => segment.push(step),
            }
        }
        if !segment.is_empty() {
            segments.push(PatternPart::new(segment));
        }
        LikePattern(Arc::new(SplitPattern { text, segments, starts_open, ends_open }))
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Returns whether the whole text matches the pattern.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn matches(&self, text: &str) -> Result<bool> {
        let SplitPattern { segments, starts_open, ends_open, .. } = &*self.0;
        work::step_bytes(text.len())?;
        let mut segments = segments.as_slice();
        let mut rest = text;
        if !starts_open {
            let [first, more @ ..] = segments else { return Ok(text.is_empty()) };
            let Some(after) = first.strip_start(rest) else { return Ok(false) };
            if more.is_empty() && !ends_open {
                return Ok(after.is_empty());
            }
            (segments, rest) = (more, after);
        }
        if !ends_open && let [more @ .., last] = segments {
            let Some(before) = last.strip_end(rest) else { return Ok(false) };
            (segments, rest) = (more, before);
        }
        for segment in segments {
            let Some(after) = segment.find(rest)? else { return Ok(false) };
            rest = after;
        }
        Ok(true)
    }

    /// Returns the text that every match starts with, and whether that text is the only match.
    pub(super) fn prefix(&self) -> (String, bool) {
        let mut steps = self.0.text.chars();
        let mut prefix = String::new();
        while let Some(step) = step(&mut steps) {
            match step {
                PatternStep::Char(c) => prefix.push(c),
                PatternStep::AnyText | PatternStep::AnyChar => return (prefix, false),
            }
        }
        (prefix, true)
    }
}

impl PatternPart {
    fn new(steps: Vec<PatternStep>) -> PatternPart {
        let plain = steps.iter().map(|step| if let PatternStep::Char(c) = step { Some(*c) } else { None });
        match plain.collect::<Option<String>>() {
            Some(text) => PatternPart::Text(text),
            None => PatternPart::Steps(steps),
        }
    }

    /// The rest of a text that starts with the segment.
    fn strip_start<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            PatternPart::Text(segment) => text.strip_prefix(segment.as_str()),
            PatternPart::Steps(steps) => {
                let mut chars = text.chars();
                steps
                    .iter()
                    .all(|step| chars.next().is_some_and(|c| fits(*step, c)))
                    .then_some(chars.as_str())
            }
        }
    }

    /// The rest of a text that ends with the segment.
    fn strip_end<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            PatternPart::Text(segment) => text.strip_suffix(segment.as_str()),
            PatternPart::Steps(steps) => {
                let mut chars = text.chars();
                let mut from_end = steps.iter().rev();
                from_end
                    .all(|step| chars.next_back().is_some_and(|c| fits(*step, c)))
                    .then_some(chars.as_str())
            }
        }
    }

    /// The text after the first place at which the segment fits.
    fn find<'t>(&self, text: &'t str) -> Result<Option<&'t str>> {
        match self {
            PatternPart::Text(segment) => {
                let found = text.find(segment.as_str());
                Ok(found.and_then(|at| text.get(at + segment.len()..)))
            }
            PatternPart::Steps(steps) => find_steps(steps, text),
        }
    }
}

fn fits(step: PatternStep, c: char) -> bool {
    match step {
        PatternStep::Char(wanted) => wanted == c,
        PatternStep::AnyChar | PatternStep::AnyText => true,
    }
}

/// Finds a segment with Shift-And. After each character of the text, bit `i` says whether the first `i + 1` steps fit the
/// characters up to this one.
fn find_steps<'t>(steps: &[PatternStep], text: &'t str) -> Result<Option<&'t str>> {
    let words = steps.len().div_ceil(64);
    let bit = |at: usize| (at / 64, 1u64 << (at % 64));
    let set = |mask: &mut [u64], at: usize| {
        let (word, bit) = bit(at);
        mask.get_mut(word).into_iter().for_each(|word| *word |= bit);
    };
    // For each character, the steps that it fits.
    let mut any = vec![0u64; words];
    for (at, _) in steps.iter().enumerate().filter(|(_, step)| **step == PatternStep::AnyChar) {
        set(&mut any, at);
    }
    let mut fitting: HashMap<char, Vec<u64>> = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        if let PatternStep::Char(c) = step {
            work::step_bytes(words * 8)?;
            set(fitting.entry(*c).or_insert_with(|| any.clone()), at);
        }
    }
    let (last_word, last_bit) = bit(steps.len().saturating_sub(1));
    let cost = u32::try_from(words).unwrap_or(u32::MAX);
    let mut state = vec![0u64; words];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        work::step(cost)?;
        let mut carry = 1;
        for (state, mask) in state.iter_mut().zip(fitting.get(&c).unwrap_or(&any)) {
            let shifted = *state << 1 | carry;
            carry = *state >> 63;
            *state = shifted & mask;
        }
        if state.get(last_word).is_some_and(|word| word & last_bit != 0) {
            return Ok(Some(chars.as_str()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        LikePattern::new(pattern).matches(text).unwrap()
    }

    fn naive(pattern: &[PatternStep], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([PatternStep::AnyText, rest @ ..], _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            ([PatternStep::AnyChar, rest @ ..], [_, text @ ..]) => naive(rest, text),
            ([PatternStep::Char(c), rest @ ..], [d, text @ ..]) => c == d && naive(rest, text),
            _ => false,
        }
    }

    fn steps(pattern: &str) -> Vec<PatternStep> {
        let mut chars = pattern.chars();
        std::iter::from_fn(|| step(&mut chars)).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_matcher(pattern in "[ab%_é\\\\]{0,8}", text in "[ab%é\\\\]{0,8}") {
            let expected = naive(&steps(&pattern), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&pattern, &text), expected);
            let (prefix, exact) = LikePattern::new(pattern).prefix();
            if exact {
                prop_assert_eq!(prefix == text, expected);
            } else if expected {
                prop_assert!(text.starts_with(&prefix));
            }
        }

        /// Segments of more than 64 characters use more than one word.
        #[test]
        fn agrees_with_a_naive_matcher_on_long_segments(
            before in "[ab]{0,40}", pattern in "[ab_]{60,140}", after in "[ab]{0,40}", swap in any::<prop::sample::Index>(),
        ) {
            let fitting: String = pattern.replace('_', "é");
            let mut other: Vec<char> = fitting.chars().collect();
            let at = swap.index(other.len());
            other[at] = 'c';
            for middle in [fitting, other.into_iter().collect()] {
                let text = format!("{before}{middle}{after}");
                let pattern = format!("%{pattern}%");
                let expected = naive(&steps(&pattern), &text.chars().collect::<Vec<_>>());
                prop_assert_eq!(matches(&pattern, &text), expected);
            }
        }
    }

    #[test]
    fn hostile_patterns_take_linear_time() {
        let text = "a".repeat(1_000_000);
        let long = "a".repeat(4000);
        // Each of these took minutes with a matcher that goes back to the last %.
        assert!(!matches(&format!("%{long}b"), &text));
        assert!(!matches(&format!("%{long}b%"), &text));
        assert!(!matches(&format!("%{}_b%", &long[..100]), &text));
        assert!(!matches(&format!("{}b", "%a".repeat(2000)), &text));
        assert!(matches(&"%a".repeat(2000), &text));
        assert!(matches(&"%_".repeat(2000), &text));
    }

    #[test]
    fn open_and_closed_ends_differ() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "a", true),
            ("a%a", "a", false),
            ("a%a", "aa", true),
            ("_%_", "a", false),
            ("a_%", "ab", true),
            ("%ab_", "aabc", true),
            ("%ab%ab", "abab", true),
            ("%ab%ab", "aab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_backslash_escapes_the_next_character() {
        assert!(matches("100\\%", "100%") && !matches("100\\%", "1000"));
        assert!(matches("a\\\\%", "a\\b") && matches("a\\", "a\\"));
        assert_eq!(LikePattern::new("a\\_b%").prefix(), ("a_b".to_owned(), false));
    }
}
