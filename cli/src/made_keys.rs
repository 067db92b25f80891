//! The keys that the writer made for inserts without one, in notes for people.

use driftdb::v1;

/// The most keys that a note for people names.
const KEYS_SHOWN: usize = 10;

/// The keys as text, in the order of the operations.
pub(crate) fn texts(made: Vec<v1::MadeKey>) -> Vec<String> {
    made.into_iter().map(|made| made.key).collect()
}

/// The keys that the writer made, after a note for people: all, if they are few.
pub(crate) fn with_keys(keys: &[String]) -> String {
    let shown = keys.iter().take(KEYS_SHOWN).map(|key| format!("\n{key}")).collect::<String>();
    match keys {
        [] => String::new(),
        [key] => format!(", key {key}"),
        keys if keys.len() <= KEYS_SHOWN => format!(", {} keys:{shown}", keys.len()),
        keys => format!(
            ", {} keys (-o json prints all of them):{shown}\nand {} more",
            keys.len(),
            keys.len() - KEYS_SHOWN
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_a_few_keys_and_counts_the_others() {
        let keys = |count: usize| (1..=count).map(|n| format!("k{n}")).collect::<Vec<_>>();
        assert_eq!(with_keys(&[]), "");
        assert_eq!(with_keys(&keys(1)), ", key k1");
        assert_eq!(with_keys(&keys(2)), ", 2 keys:\nk1\nk2");
        let many = with_keys(&keys(12));
        assert!(
            many.starts_with(", 12 keys (-o json prints all of them):\nk1\n")
                && many.ends_with("k10\nand 2 more"),
            "{many}"
        );
    }
}
