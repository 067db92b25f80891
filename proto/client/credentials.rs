//! The token that a client sends with each call.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::Uri;
use tonic::{Request, Status};

use super::reasons::invalid;

/// A bearer token, as `driftctl token new` makes it. It is not shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(MetadataValue<Ascii>);

impl BearerToken {
    /// A token. White space around it, such as the end of the line in its file, does not count.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if it is empty, or contains characters that no token has. The message does not contain it.
    pub fn new(text: &str) -> Result<BearerToken, Status> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message =
                "not a token: it must be one line of letters, digits and punctuation, and not be empty";
            return Err(invalid(message.to_owned()));
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {text}").parse().map_err(|_| invalid("not a token".to_owned()))?;
        value.set_sensitive(true);
        Ok(BearerToken(value))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// The token of a client, which can be replaced while the client is in use.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedToken(Arc<RwLock<Option<BearerToken>>>);

impl SharedToken {
    pub(super) fn new(token: Option<BearerToken>) -> SharedToken {
        SharedToken(Arc::new(RwLock::new(token)))
    }

    pub(super) fn set(&self, token: Option<BearerToken>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn get(&self) -> Option<BearerToken> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is sent to a daemon at an address.
    pub(super) fn at(&self, address: &str) -> Credentials {
        let unsafe_address = (!is_safe(address)).then(|| Arc::from(address));
        Credentials { token: self.clone(), unsafe_address }
    }
}

/// Adds the token to each call, unless others could read it on its way.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    token: SharedToken,
    /// The address, if the way there is neither encrypted nor inside this machine.
    unsafe_address: Option<Arc<str>>,
}

impl Credentials {
    /// The credentials for calls to an address.
    pub fn new(token: Option<BearerToken>, address: &str) -> Credentials {
        SharedToken::new(token).at(address)
    }

    /// Fails if there is a token and others could read it on its way.
    ///
    /// # Errors
    /// INVALID_ARGUMENT
    pub fn check(&self) -> Result<(), Status> {
        self.clone().call(Request::new(())).map(drop)
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(BearerToken(value)) = self.token.get() else { return Ok(request) };
        if let Some(address) = &self.unsafe_address {
            return Err(invalid(format!(
                "the token was not sent to {address}: the connection is not encrypted, and leaves this machine; use https://"
            )));
        }
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// Whether nobody else can read what is sent to an address: it is encrypted, or stays on this machine.
fn is_safe(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    if uri.scheme_str() == Some("https") {
        return true;
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_only_where_nobody_else_can_read_it() {
        let token = BearerToken::new("driftdb_abc\n").unwrap();
        for (address, is_sent) in [
            ("https://db.example.com:7401", true),
            ("http://127.0.0.1:7401", true),
            ("http://127.1.2.3:7401", true),
            ("http://[::1]:7401", true),
            ("http://[::ffff:127.0.0.1]:7401", true),
            ("http://localhost:7401", true),
            ("http://10.0.0.5:7401", false),
            ("http://db.example.com:7401", false),
            ("http://localhost.example.com:7401", false),
            ("http://127.0.0.1.example.com", false),
            ("http://0.0.0.0:7401", false),
        ] {
            let sent = Credentials::new(Some(token.clone()), address).call(Request::new(()));
            match is_sent {
                true => {
                    let sent = sent.unwrap();
                    let value = sent.metadata().get("authorization").unwrap();
                    assert_eq!(value, "Bearer driftdb_abc", "{address}");
                }
                false => assert!(sent.unwrap_err().message().contains(address), "{address}"),
            }
            assert!(Credentials::new(None, address).call(Request::new(())).is_ok());
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = BearerToken::new("driftdb_secret").unwrap();
        let credentials = Credentials::new(Some(token.clone()), "http://localhost");
        assert!(!format!("{token:?} {credentials:?}").contains("secret"));
        for wrong in ["", " \n", "a b", "a\nb", "ä"] {
            assert!(BearerToken::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
