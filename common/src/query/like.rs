//! LIKE patterns: `%`, `_` and literal characters.

use std::str::Chars;

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

/// Returns whether the whole text matches the pattern.
///
/// Backtracks only to the last `%`: giving an earlier one more text cannot help a later one. So the number of steps
/// is at most the length of the pattern times the length of the text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    let mut last_any: Option<(Chars<'_>, Chars<'_>)> = None;
    loop {
        let mut pattern_after = pattern.clone();
        let mut text_after = text.clone();
        let fits = match (step(&mut pattern_after), text_after.next()) {
            (Some(PatternStep::AnyText), _) => {
                last_any = Some((pattern_after.clone(), text.clone()));
                pattern = pattern_after;
                continue;
            }
            (None, None) => return true,
            (Some(_), None) => return false,
            (Some(PatternStep::AnyChar), Some(_)) => true,
            (Some(PatternStep::Char(wanted)), Some(found)) => wanted == found,
            (None, Some(_)) => false,
        };
        if fits {
            (pattern, text) = (pattern_after, text_after);
        } else {
            let Some((after_any, taken)) = &mut last_any else { return false };
            taken.next();
            (pattern, text) = (after_any.clone(), taken.clone());
        }
    }
}

/// Returns the text that every match starts with, and whether that text is the only match.
pub(super) fn prefix(pattern: &str) -> (String, bool) {
    let mut steps = pattern.chars();
    let mut prefix = String::new();
    while let Some(step) = step(&mut steps) {
        match step {
            PatternStep::Char(c) => prefix.push(c),
            PatternStep::AnyText | PatternStep::AnyChar => return (prefix, false),
        }
    }
    (prefix, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(pattern: &[PatternStep], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([PatternStep::AnyText, rest @ ..], _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            ([PatternStep::AnyChar, rest @ ..], [_, text @ ..]) => naive(rest, text),
            ([PatternStep::Char(c), rest @ ..], [d, text @ ..]) => c == d && naive(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_matcher(pattern in "[ab%_é\\\\]{0,8}", text in "[ab%é\\\\]{0,8}") {
            let mut chars = pattern.chars();
            let steps: Vec<PatternStep> = std::iter::from_fn(|| step(&mut chars)).collect();
            let expected = naive(&steps, &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&pattern, &text), expected);
            let (prefix, exact) = prefix(&pattern);
            if exact {
                prop_assert_eq!(prefix == text, expected);
            } else if expected {
                prop_assert!(text.starts_with(&prefix));
            }
        }
    }

    #[test]
    fn many_wildcards_do_not_explode() {
        let text = "a".repeat(10_000);
        assert!(!matches(&format!("{}b", "%a".repeat(100)), &text));
        assert!(matches(&"%a".repeat(100), &text));
    }

    #[test]
    fn a_backslash_escapes_the_next_character() {
        assert!(matches("100\\%", "100%") && !matches("100\\%", "1000"));
        assert!(matches("a\\\\%", "a\\b") && matches("a\\", "a\\"));
        assert_eq!(prefix("a\\_b%"), ("a_b".to_owned(), false));
    }
}
