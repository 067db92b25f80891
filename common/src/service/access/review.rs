//! What in an auth file is probably a mistake, although it can be used.

use crate::service::access::rules::AccessRules;
use crate::table::format_time;

/// One line for each rule that has no effect, and each principal that cannot act.
pub fn warnings(rules: &AccessRules, now_ms: u64) -> Vec<String> {
    let mut found = Vec::new();
    for principal in rules.principals() {
        let name = &principal.name;
        let tokens: Vec<_> = rules.tokens_of(name).collect();
        for token in tokens.iter().filter(|token| token.has_expired(now_ms)) {
            let since = format_time(token.expires_ms.unwrap_or_default());
            found
                .push(format!("principal {name:?}: its token {} has expired on {since}", token.hash.short()));
        }
        let has_token = tokens.iter().any(|token| !token.has_expired(now_ms));
        if !has_token && rules.certificates_of(name).is_empty() {
            found.push(format!(
                "principal {name:?}: it has no valid token and no certificate, so nobody can be it"
            ));
        }
        if !principal.is_admin && principal.grants().next().is_none() {
            found.push(format!("principal {name:?}: it has no grants, so it may do nothing"));
        }
        if principal.is_admin && principal.grants().next().is_some() {
            found.push(format!(
                "principal {name:?}: its grants have no effect, because admin = true allows everything"
            ));
            continue;
        }
        found.extend(principal.redundant_grants().into_iter().map(|(grant, wider)| {
            format!("principal {name:?}: its grant of {grant} has no effect, because {wider} contains it")
        }));
    }
    if !rules.principals().any(|principal| principal.is_admin) {
        found.push("no principal has admin = true, so nobody can administer the database".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::access::auth_file;

    #[test]
    fn rules_without_effect_are_named() {
        let text = r#"
            [[principal]]
            name = "a"
            grants = [{ tables = ["orders"], role = "read" }, { tables = ["o*"], role = "write" }]
            [[principal.token]]
            sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            expires = 1970-01-01T00:00:01Z
        "#;
        let found = warnings(&auth_file::parse(text).unwrap(), 1_000);
        let expected = [
            "its token ba7816bf has expired on 1970-01-01T00:00:01.000Z",
            "so nobody can be it",
            "its grant of read on orders has no effect, because write on o* contains it",
            "nobody can administer",
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (warning, part) in found.iter().zip(expected) {
            assert!(warning.contains(part), "{warning}");
        }
        let fine = "[[principal]]\nname = \"a\"\nadmin = true\ncertificates = [\"CN=a\"]";
        assert_eq!(warnings(&auth_file::parse(fine).unwrap(), 0), Vec::<String>::new());
    }
}
