//! The tables that a grant names: one name, or a pattern in which `*` stands for any characters.
//!
//! Case does not count: a database cannot have two tables whose names differ in case only, so a grant that would match one of them
//! and not the other could only be a mistake.

use std::fmt;

use crate::error::{Error, Reason, Result};
use crate::limits;

/// A pattern for names of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    /// As it was written.
    text: String,
    lower: String,
}

impl TablePattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` for text that matches no name.
    pub fn parse(text: &str) -> Result<TablePattern> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '*';
        if text.is_empty() || text.len() > limits::TABLE_NAME_BYTES + 1 || !text.chars().all(is_allowed) {
            let message = format!(
                "{text:?} is not a pattern for tables: use letters, digits and underscores, and * for any characters"
            );
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        Ok(TablePattern { text: text.to_owned(), lower: text.to_ascii_lowercase() })
    }

    /// The name that the pattern is, in lower case, if it has no `*`.
    pub fn exact_name(&self) -> Option<&str> {
        (!self.lower.contains('*')).then_some(self.lower.as_str())
    }

    /// Whether a name, in lower case, matches.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.lower.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if the last `*` must stand for one character more.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if name.get(n) == Some(c) => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, n) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
    }

    /// Whether it matches every name that another pattern matches. Says no if that is not obvious.
    pub fn covers(&self, other: &TablePattern) -> bool {
        // A `*` of the other is a character that only a `*` matches.
        self.matches(&other.lower)
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TablePattern {
        TablePattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (text, matching, others) in [
            ("orders", vec!["orders"], vec!["order", "orders_2", ""]),
            ("Orders", vec!["orders"], vec!["order"]),
            ("audit_*", vec!["audit_", "audit_a", "audit_a_b"], vec!["audit", "xaudit_a"]),
            ("*_log", vec!["_log", "a_log", "a_log_log"], vec!["a_logs", "log"]),
            ("a*b*c", vec!["abc", "axxbxxc", "abbcbc"], vec!["ab", "acb", "abcd"]),
            ("*", vec!["", "x"], vec![]),
        ] {
            let pattern = pattern(text);
            for name in matching {
                assert!(pattern.matches(name), "{text} {name}");
            }
            for name in others {
                assert!(!pattern.matches(name), "{text} {name}");
            }
        }
        for wrong in ["", "a b", "a.b", "../x", "a\0b", "ä", &"x".repeat(100)] {
            assert!(TablePattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_pattern_covers_another_only_if_it_matches_all_of_its_names() {
        for (wide, narrow, covers) in [
            ("*", "a*", true),
            ("a*", "a_*", true),
            ("a*", "abc", true),
            ("a*", "*", false),
            ("a_*", "a*", false),
            ("abc", "a*", false),
            ("*b*", "a*b*c", true),
            ("a*b", "a*", false),
        ] {
            assert_eq!(pattern(wide).covers(&pattern(narrow)), covers, "{wide} {narrow}");
        }
    }
}
