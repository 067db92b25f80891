//! The beginning of a connection: the TLS handshake, or the answer to a client that does not use TLS where it must.
//!
//! A client in clear text at a port with TLS would get bytes that it does not understand, and an error that tells nobody what to
//! do. It is recognised by its first byte, and served in clear text: each of its calls is refused, and the refusal says why.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{Error, Reason};
use crate::service::access::audit::{AuditLog, AuditedCall};
use crate::service::server::byte_stream::Connection;
use crate::service::server::peer::Peer;
use crate::service::server::tls::{ServerTls, ShownCertificate};

/// The first byte of a TLS handshake.
pub const TLS_RECORD: u8 = 0x16;
/// The first byte of the HTTP/2 preface.
const HTTP2_PREFACE: u8 = b'P';

/// A connection whose client is known as far as TLS tells.
pub struct GreetedConnection {
    /// The bytes, decrypted.
    pub stream: Connection,
    /// The client.
    pub peer: Arc<Peer>,
    /// The certificate that it has shown.
    pub certificate: Option<ShownCertificate>,
    /// Why each of its calls is refused, if it is.
    pub refused: Option<Error>,
}

/// Makes the TLS handshake of a new connection, if the daemon has TLS. `None` if that failed, which is logged. A client whose
/// certificate is refused is in the audit log, too.
pub async fn greet(
    stream: Connection,
    address: Option<IpAddr>,
    (tls, audit): (Option<&ServerTls>, &AuditLog),
) -> Option<GreetedConnection> {
    let in_clear_text = |stream, refused| GreetedConnection {
        stream,
        peer: Arc::new(Peer { address, ..Peer::default() }),
        certificate: None,
        refused,
    };
    let (tcp, tls) = match (stream, tls) {
        (Connection::Tcp(tcp), Some(tls)) => (tcp, tls),
        (stream, _) => return Some(in_clear_text(stream, None)),
    };
    let mut first = [0];
    let greeted = match tcp.peek(&mut first).await {
        Ok(0) => return None,
        Ok(_) if first == [HTTP2_PREFACE] => {
            tls.handshake_failed(address, &"the client does not use TLS");
            return Some(in_clear_text(Connection::Tcp(tcp), Some(tls_required())));
        }
        Ok(_) => tls.handshake(tcp).await,
        Err(error) => Err(error),
    };
    match greeted {
        Ok((stream, certificate)) => {
            let names = certificate.as_ref().map(|certificate| Arc::clone(&certificate.names));
            let peer = Arc::new(Peer { address, tls: true, certificate: names });
            let stream = Connection::Tls(Box::new(stream));
            Some(GreetedConnection { stream, peer, certificate, refused: None })
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => {
            tls.handshake_failed(address, &error);
            if is_about_certificate(&error) {
                let call = AuditedCall { peer: address, action: "TLS handshake", ..AuditedCall::default() };
                audit.authentication_failed(&call, &Error::new(Reason::Unauthenticated, error.to_string()));
            }
            None
        }
    }
}

/// Whether a handshake has failed because the client has no certificate, or one that is not accepted.
fn is_about_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

fn tls_required() -> Error {
    let message = "this port requires TLS, and the client does not use it; connect to https:// instead of http://, with the \
                   CA's certificate (driftctl: --tls-ca)";
    Error::new(Reason::TlsRequired, message)
}
