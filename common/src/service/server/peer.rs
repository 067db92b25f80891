//! Who is at the other end of a connection: the address, and the certificate that was shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Who is at the other end of a connection. Every request has it as an extension, as `Arc<Peer>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address; `None` inside this process.
    pub address: Option<IpAddr>,
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// The certificate that the client has shown. A CA that the operator trusts has signed it.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// What a client's certificate says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The common name of the subject; `None` if there is none, or more than one.
    pub common_name: Option<String>,
    /// The alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// The alternative names that are URIs.
    pub uris: Vec<String>,
    /// The alternative names that are e-mail addresses.
    pub emails: Vec<String>,
    /// The end of its validity.
    pub not_after: SystemTime,
}
