//! How the log keeps the principal of a commit: inside of the actor, the request id and the producer that it stores already.
//!
//! A principal is who has proved to be the caller. The actor is who made the change, and an import names another one. Frames,
//! layers, compaction bases and their checks all carry the actor as one text, so the principal follows it after a NUL byte. Ids
//! that clients choose have the principal before them, between NUL bytes: two principals that choose the same id do not meet, and
//! an id from a time without principals stays what it was. No principal, and no actor that a client names, contains NUL.

/// Stands between the parts.
const NUL: char = '\0';

/// The text that is stored for an actor and the principal that made the commit; the principal alone is the actor if `actor` is empty.
pub fn stored_actor(actor: &str, principal: Option<&str>) -> String {
    match principal {
        None => actor.to_owned(),
        Some(principal) if actor.is_empty() || actor == principal => format!("{principal}{NUL}"),
        Some(principal) => format!("{actor}{NUL}{principal}"),
    }
}

/// The actor in a stored text.
pub fn actor_of(stored: &str) -> &str {
    stored.split_once(NUL).map_or(stored, |(actor, _)| actor)
}

/// The principal in a stored text; `None` if the commit was made without one.
pub fn principal_of(stored: &str) -> Option<&str> {
    stored.split_once(NUL).map(|(actor, principal)| if principal.is_empty() { actor } else { principal })
}

/// The form in which an id that a principal has chosen is remembered and stored.
pub fn stored_id(id: &str, principal: Option<&str>) -> String {
    match principal {
        Some(principal) if !id.is_empty() => format!("{NUL}{principal}{NUL}{id}"),
        _ => id.to_owned(),
    }
}

/// The id as its client chose it.
pub fn id_of(stored: &str) -> &str {
    let scoped = stored.strip_prefix(NUL).and_then(|rest| rest.split_once(NUL));
    scoped.map_or(stored, |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_and_the_principal_are_kept_apart() {
        for (actor, principal, shown) in [
            ("", None, ""),
            ("ann", None, "ann"),
            ("", Some("billing"), "billing"),
            ("billing", Some("billing"), "billing"),
            ("ann", Some("loader"), "ann"),
        ] {
            let stored = stored_actor(actor, principal);
            assert_eq!((actor_of(&stored), principal_of(&stored)), (shown, principal), "{stored:?}");
        }
    }

    #[test]
    fn ids_of_two_principals_never_meet() {
        let stored = [
            stored_id("x", None),
            stored_id("x", Some("a")),
            stored_id("x", Some("b")),
            // What a client chooses cannot put it into the scope of another.
            stored_id("\0b\0x", Some("a")),
        ];
        let different: std::collections::HashSet<_> = stored.iter().collect();
        assert_eq!(different.len(), stored.len());
        assert!(stored.iter().take(3).all(|stored| id_of(stored) == "x"));
        assert_eq!(stored_id("", Some("a")), "");
    }
}
