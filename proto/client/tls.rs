//! TLS of a client: the files that it needs, and connections to daemons that use it.
//!
//! The files are read for each connection, so that a certificate that was renewed is in use without a restart of the client.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, crypto};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;

use super::tls_stream::{ClientStream, TlsClientStream};

/// The protocol that gRPC needs.
const ALPN: &[u8] = b"h2";
/// How long the first bytes of the daemon are waited for.
const FIRST_BYTES: Duration = Duration::from_millis(500);
/// What is said of a daemon without TLS.
const NO_TLS: &str = "it does not use TLS; connect to http:// instead of https://";

/// TLS of a client, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// The certificates of the CAs that the client trusts.
    pub ca: PathBuf,
    /// The client's own certificate and key, for daemons that ask for them.
    pub identity: Option<ClientIdentity>,
    /// The name that a daemon's certificate must have. `None` for the host of its address.
    pub server_name: Option<String>,
}

/// A client's certificate and its private key, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, and those between it and its CA.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl ClientTls {
    /// Trusts the CAs in a file.
    pub fn new(ca: impl Into<PathBuf>) -> ClientTls {
        ClientTls { ca: ca.into(), identity: None, server_name: None }
    }

    /// Shows this certificate to daemons that ask for one.
    #[must_use]
    pub fn with_identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> ClientTls {
        let identity = ClientIdentity { certificate: certificate.into(), key: key.into() };
        ClientTls { identity: Some(identity), ..self }
    }

    /// Expects this name in the certificates of daemons, instead of the host of their addresses.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> ClientTls {
        ClientTls { server_name: Some(name.into()), ..self }
    }
}

/// Why there is no TLS connection: what it is, and what can be done about it.
#[derive(Debug)]
pub(super) struct TlsFailure(String);

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsFailure {}

/// Why a connection could not be opened.
type ConnectFailure = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the daemon at an address: with TLS, and to an address with `http://` in clear text if the daemon has no TLS. A daemon that
/// has TLS and cannot be trusted is an error in any case.
pub(super) async fn open(tls: Arc<ClientTls>, address: Uri) -> Result<Box<dyn ClientStream>, ConnectFailure> {
    let host = address.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let needs_tls = address.scheme_str() == Some("https");
    let port = address.port_u16().unwrap_or(if needs_tls { 443 } else { 80 });
    match open_with_tls(tls, (&host, port)).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) if !needs_tls && is_clear_text(&error) => {
            let tcp = TcpStream::connect((host, port)).await?;
            tcp.set_nodelay(true)?;
            Ok(Box::new(tcp))
        }
        Err(error) => Err(error),
    }
}

/// Whether a connection has failed only because the daemon has no TLS.
fn is_clear_text(failure: &ConnectFailure) -> bool {
    failure.downcast_ref::<TlsFailure>().is_some_and(|TlsFailure(why)| why == NO_TLS)
}

async fn open_with_tls(
    tls: Arc<ClientTls>,
    (host, port): (&str, u16),
) -> Result<TlsClientStream, ConnectFailure> {
    let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
    let server = ServerName::try_from(name.clone())
        .map_err(|_| TlsFailure(format!("{name:?} is not a name that a certificate can have")))?;
    let reading = tls.clone();
    let config = tokio::task::spawn_blocking(move || config(&reading)).await??;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(server, tcp).await.map_err(|e| explain(e, &name))?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(TlsFailure("it does not offer HTTP/2, which gRPC needs".to_owned()).into());
    }
    // With TLS 1.3 a daemon judges the certificate of a client after the client's side of the handshake has ended. The daemon's first
    // bytes show that it has accepted the client: later, nobody could tell whether a request was executed. Some proxies wait
    // for the client's bytes first.
    let mut first = vec![0; 1024];
    match timeout(FIRST_BYTES, stream.read(&mut first)).await {
        Ok(Ok(0)) => return Err(TlsFailure("it closed the connection after the handshake".to_owned()).into()),
        Ok(Ok(read)) => first.truncate(read),
        Ok(Err(error)) => return Err(explain(error, &name)),
        Err(_) => first.clear(),
    }
    Ok(TlsClientStream::new(stream, first))
}

fn config(tls: &ClientTls) -> Result<ClientConfig, TlsFailure> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(&tls.ca)? {
        let unusable = |e| TlsFailure(format!("cannot trust a certificate in {}: {e}", tls.ca.display()));
        roots.add(ca).map_err(unusable)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsFailure(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        Some(ClientIdentity { certificate, key }) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|e| TlsFailure(format!("cannot read a private key in {}: {e}", key.display())))?;
            let mismatch = |e| {
                let (certificate, key) = (certificate.display(), key.display());
                TlsFailure(format!("cannot use the certificate {certificate} with the key {key}: {e}"))
            };
            builder.with_client_auth_cert(chain, private).map_err(mismatch)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The certificates of a file in PEM: at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let unreadable =
        |why: String| TlsFailure(format!("cannot read a certificate in {}: {why}", path.display()));
    match found {
        Ok(found) if found.is_empty() => Err(unreadable("it contains none in PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

#[expect(clippy::disallowed_methods, reason = "a client is no part of a daemon: it reads its own files")]
fn read(path: &Path) -> Result<Vec<u8>, TlsFailure> {
    std::fs::read(path).map_err(|e| TlsFailure(format!("cannot read {}: {e}", path.display())))
}

/// What a failed handshake means for the user. Other errors stay as they are.
fn explain(error: io::Error, name: &str) -> ConnectFailure {
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                TlsFailure("it closed the connection during the TLS handshake".to_owned()).into()
            }
            _ => error.into(),
        };
    };
    TlsFailure(meaning(cause, name)).into()
}

fn meaning(error: &rustls::Error, name: &str) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        InvalidMessage(rustls::InvalidMessage::InvalidContentType) => NO_TLS.to_owned(),
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not from a CA that this client trusts; give the CA's certificate (driftctl: --tls-ca)"
                .to_owned()
        }
        InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "its certificate is not for the name {name:?}: {error}; use an address with a name of the certificate, or name the \
             one to expect (driftctl: --tls-server-name)"
        ),
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired; the operator must renew it".to_owned()
        }
        AlertReceived(AlertDescription::CertificateRequired) => {
            "it requires a client certificate, and none was given (driftctl: --tls-cert and --tls-key)".to_owned()
        }
        AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied),
        ) => format!("it refuses the certificate of this client: {alert:?}"),
        other => other.to_string(),
    }
}
