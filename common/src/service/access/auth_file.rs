//! The auth file: TOML that names the principals, their tokens and certificates, and their grants.
//!
//! A file that cannot be understood whole is refused whole: a rule that was passed over because of a typing error would be found out
//! only when it is missed. Therefore unknown fields are errors, too.

use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::service::access::principal::{Grants, Principal};
use crate::service::access::role::Role;
use crate::service::access::rules::{AccessRules, KnownToken};
use crate::service::access::table_pattern::TablePattern;
use crate::service::access::token::TokenHash;

/// The kinds of names that a client certificate can have.
const CERTIFICATE_KINDS: [&str; 4] = ["CN=", "DNS:", "URI:", "EMAIL:"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthFileContent {
    #[serde(default)]
    principal: Vec<PrincipalEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalEntry {
    name: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    grants: Vec<GrantEntry>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    token: Vec<TokenEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    tables: Vec<String>,
    role: Role,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    sha256: String,
    expires: Option<toml::value::Datetime>,
}

/// The rules in the bytes of a file.
///
/// # Errors
/// `ARGUMENT_INVALID`, with what is wrong and where.
pub fn parse_bytes(bytes: &[u8]) -> Result<AccessRules> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("the file is not UTF-8"))?;
    parse(text)
}

/// The rules in the text of a file.
///
/// # Errors
/// `ARGUMENT_INVALID`, with what is wrong and where.
pub fn parse(text: &str) -> Result<AccessRules> {
    let content: AuthFileContent = toml::from_str(text)
        .map_err(|e| invalid(format!("not an auth file: {}", e.to_string().trim_end())))?;
    let mut rules = AccessRules::default();
    for entry in content.principal {
        let name = entry.name.clone();
        add_principal(&mut rules, entry).map_err(|e| e.context(format_args!("principal {name:?}")))?;
    }
    Ok(rules)
}

fn add_principal(rules: &mut AccessRules, entry: PrincipalEntry) -> Result<()> {
    check_name(&entry.name)?;
    let mut grants = Grants::default();
    for GrantEntry { tables, role } in &entry.grants {
        for table in tables {
            grants.add(TablePattern::parse(table)?, *role);
        }
    }
    if grants.patterns() > limits::GRANT_PATTERNS {
        let message = format!(
            "too many grants with *: {}, the limit for a principal is {}; name fewer patterns, or tables",
            grants.patterns(),
            limits::GRANT_PATTERNS
        );
        return Err(invalid(message));
    }
    let principal = Arc::new(Principal::new(entry.name, entry.admin, grants));
    if !rules.add(&principal) {
        return Err(invalid("the name is used twice; give each principal its own"));
    }
    for TokenEntry { sha256, expires } in entry.token {
        let hash = TokenHash::parse(&sha256).ok_or_else(|| {
            invalid("sha256 of a token must have 64 hexadecimal digits; `driftctl token new` prints the line")
        })?;
        let expires_ms = expires.as_ref().map(expiry).transpose()?;
        if !rules.add_token(KnownToken { hash, principal: Arc::clone(&principal), expires_ms }) {
            return Err(invalid("the same token is named twice; make one for each principal"));
        }
    }
    for name in &entry.certificates {
        if !CERTIFICATE_KINDS.iter().any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()))
        {
            let message = format!("certificate {name:?} must begin with CN=, DNS:, URI: or EMAIL:");
            return Err(invalid(message));
        }
        if !rules.add_certificate(name, &principal) {
            return Err(invalid(format!(
                "certificate {name:?} is named twice; each belongs to one principal"
            )));
        }
    }
    Ok(())
}

/// Fails unless a principal may have a name: it is shown, logged and stored with each commit.
pub fn check_name(name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.@/:".contains(c);
    if name.is_empty() || name.len() > limits::PRINCIPAL_NAME_BYTES || !name.chars().all(is_allowed) {
        let message = format!(
            "the name of a principal has 1 to {} letters, digits or characters of _-.@/:",
            limits::PRINCIPAL_NAME_BYTES
        );
        return Err(invalid(message));
    }
    Ok(())
}

/// The moment at which a token ends, in milliseconds since 1970.
fn expiry(time: &toml::value::Datetime) -> Result<u64> {
    let parsed = time.to_string().parse::<jiff::Timestamp>().map_err(|_| {
        invalid(format!("expires = {time} must be a time with an offset, such as 2027-01-31T00:00:00Z"))
    })?;
    Ok(u64::try_from(parsed.as_millisecond()).unwrap_or(0))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_names_principals_with_tokens_certificates_and_grants() {
        let rules = parse(&format!(
            r#"
            [[principal]]
            name = "billing"
            grants = [
              {{ tables = ["orders", "audit_*"], role = "write" }},
              {{ tables = ["*"], role = "read" }},
            ]
            certificates = ["CN=billing", "DNS:billing.example.com"]

            [[principal.token]]
            sha256 = "{HASH}"
            expires = 2027-01-31T00:00:00Z

            [[principal]]
            name = "ops"
            admin = true
            "#
        ))
        .unwrap();
        let token = rules.token(&TokenHash::of("abc")).unwrap();
        assert_eq!((token.principal.name.as_str(), token.expires_ms), ("billing", Some(1_801_353_600_000)));
        assert!(token.has_expired(1_801_353_600_000) && !token.has_expired(1_801_353_599_999));
        let billing = rules.of_certificate(&["DNS:x".to_owned(), "CN=billing".to_owned()]).unwrap();
        assert_eq!(billing.role_on("audit_x"), Some(Role::Write));
        assert_eq!(billing.role_on("other"), Some(Role::Read));
        assert!(rules.principal("ops").unwrap().is_admin);
        assert!(rules.token(&TokenHash::of("abd")).is_none());
    }

    #[test]
    fn a_certificate_with_names_of_two_principals_is_of_neither() {
        let principal = |name: &str| {
            format!("[[principal]]\nname = \"{name}\"\ncertificates = [\"CN={name}\", \"DNS:{name}\"]\n")
        };
        let rules = parse(&(principal("a") + &principal("b"))).unwrap();
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            rules.of_certificate(&names).map(|principal| principal.name.clone())
        };
        assert_eq!(of(&["DNS:a", "CN=a", "DNS:unknown"]).as_deref(), Some("a"));
        assert_eq!(of(&["DNS:a", "CN=b"]), None);
        assert_eq!(of(&["DNS:unknown"]), None);
    }

    #[test]
    fn a_file_with_any_error_is_refused_whole() {
        let entry = |more: &str| format!("[[principal]]\nname = \"a\"\n{more}\n");
        let token = format!("[[principal.token]]\nsha256 = \"{HASH}\"\n");
        for wrong in [
            "[[principals]]\nname = \"a\"".to_owned(),
            "[[principal]]\nname = \"\"".to_owned(),
            "[[principal]]\nname = \"a\\u0000b\"".to_owned(),
            entry("admin = \"yes\""),
            entry("grant = []"),
            entry("grants = [{ tables = [\"a b\"], role = \"read\" }]"),
            entry("grants = [{ tables = [\"a\"], role = \"owner\" }]"),
            entry("certificates = [\"billing\"]"),
            entry("certificates = [\"CN=\"]"),
            entry("[[principal.token]]\nsha256 = \"abc\""),
            entry(&format!("{token}expires = 2027-01-31")),
            entry(&format!("{token}expires = \"soon\"")),
            entry(&format!("{token}{token}")),
            entry("") + &entry(""),
            entry("certificates = [\"CN=x\"]") + "[[principal]]\nname = \"b\"\ncertificates = [\"CN=x\"]",
        ] {
            let error = parse(&wrong).err().unwrap_or_else(|| panic!("accepted: {wrong}"));
            assert_eq!(error.reason(), Reason::ArgumentInvalid, "{wrong}");
        }
        assert_eq!(parse("").unwrap().principals().count(), 0);
    }
}
