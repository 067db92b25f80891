//! The rules of one version of an auth file: the principals, and how each proves who it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::service::access::principal::Principal;
use crate::service::access::token::TokenHash;

/// One version of the rules.
#[derive(Debug, Default)]
pub struct AccessRules {
    principals: BTreeMap<String, Arc<Principal>>,
    /// Tokens by a part of their hash. The whole hash is then compared in constant time.
    tokens: HashMap<u32, Vec<KnownToken>>,
    /// Principals by a name of their client certificate: `CN=…`, `DNS:…`, `URI:…`, `EMAIL:…`.
    certificates: HashMap<String, Arc<Principal>>,
}

/// A token that a principal may use.
#[derive(Debug, Clone)]
pub struct KnownToken {
    /// Its hash.
    pub hash: TokenHash,
    /// Whose it is.
    pub principal: Arc<Principal>,
    /// When it ends, in milliseconds since 1970; `None` for never.
    pub expires_ms: Option<u64>,
}

impl KnownToken {
    /// Whether its time is over.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms)
    }
}

impl AccessRules {
    /// Adds a principal. Returns false if the name is taken.
    pub(super) fn add(&mut self, principal: &Arc<Principal>) -> bool {
        self.principals.insert(principal.name.clone(), Arc::clone(principal)).is_none()
    }

    /// Adds a token. Returns false if it is known.
    pub(super) fn add_token(&mut self, token: KnownToken) -> bool {
        let bucket = self.tokens.entry(token.hash.bucket()).or_default();
        if bucket.iter().any(|known| known.hash == token.hash) {
            return false;
        }
        bucket.push(token);
        true
    }

    /// Adds a name of a certificate. Returns false if another principal has it.
    pub(super) fn add_certificate(&mut self, name: &str, principal: &Arc<Principal>) -> bool {
        self.certificates.insert(name.to_owned(), Arc::clone(principal)).is_none()
    }

    /// The token with a hash, expired or not.
    pub fn token(&self, hash: &TokenHash) -> Option<&KnownToken> {
        self.tokens.get(&hash.bucket())?.iter().find(|known| known.hash == *hash)
    }

    /// The principal of a certificate with these names; `None` also if they are names of several: which one counts would then depend on the
    /// order of the names, and a certificate that was meant for one principal would open what another may do.
    pub fn of_certificate<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Option<&Arc<Principal>> {
        let mut found = names.into_iter().filter_map(|name| self.certificates.get(name));
        let first = found.next()?;
        found.all(|other| other.name == first.name).then_some(first)
    }

    /// The principal with a name.
    pub fn principal(&self, name: &str) -> Option<&Arc<Principal>> {
        self.principals.get(name)
    }

    /// Every principal, by name.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.principals.values()
    }

    /// The tokens of a principal, in no order.
    pub fn tokens_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a KnownToken> {
        self.tokens.values().flatten().filter(move |token| token.principal.name == name)
    }

    /// The names of certificates of a principal.
    pub fn certificates_of(&self, name: &str) -> Vec<&str> {
        let of_it = self.certificates.iter().filter(|(_, principal)| principal.name == name);
        let mut names: Vec<&str> = of_it.map(|(certificate, _)| certificate.as_str()).collect();
        names.sort_unstable();
        names
    }
}
