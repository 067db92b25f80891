//! TLS of a daemon: its certificate and the CAs of its clients, from files that are reloaded, and the handshakes.
//!
//! Each handshake takes the newest configuration, so a reload needs no restart and drops no connection. No session is resumed: a
//! resumed one would not show its certificate again, and so outlive its CA. An open connection is checked again at each reload,
//! and when the certificate of its client expires.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::service::log_throttle::LogThrottle;
use crate::service::options::SecurityArgs;
use crate::service::reloaded_file::{ReloadedFiles, WatchedFile};
use crate::service::server::peer::PeerCertificate;

/// The one protocol that is offered: HTTP/2, which gRPC needs.
const ALPN: &[u8] = b"h2";
/// A certificate counts through the second that it names as its end.
const LAST_SECOND: Duration = Duration::from_secs(1);
/// A wait for a certificate's end is cut into pieces: the system's clock can be set meanwhile.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// TLS of one daemon.
#[derive(Debug)]
pub struct ServerTls {
    files: Arc<ReloadedFiles<TlsSettings>>,
    ended: AtomicU64,
    failed: AtomicU64,
    failures: LogThrottle,
}

/// What the files make.
#[derive(Debug)]
struct TlsSettings {
    config: Arc<ServerConfig>,
    /// Checks the certificates of clients, if they must show one.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// The end of the validity of the daemon's certificate.
    not_after: SystemTime,
}

/// The certificate that a client has shown, and what tells that it may not count any more.
#[derive(Debug)]
pub struct ShownCertificate {
    /// What it says.
    pub names: Arc<PeerCertificate>,
    /// The certificate, and those between it and its CA.
    chain: Vec<CertificateDer<'static>>,
    reloads: watch::Receiver<u64>,
}

impl ServerTls {
    /// Reads the files that the options name, and follows them until `shutdown` is cancelled. `None` without TLS. Needs a tokio
    /// runtime.
    pub async fn open(
        options: &SecurityArgs,
        shutdown: &CancellationToken,
    ) -> Result<Option<Arc<ServerTls>>> {
        let (Some(certificate), Some(key)) = (options.tls_cert.clone(), options.tls_key.clone()) else {
            return Ok(None);
        };
        let mut paths = vec![certificate, key];
        paths.extend(options.tls_client_ca.clone());
        let opened = tokio::task::spawn_blocking(move || open_files(paths)).await;
        let files = opened
            .map_err(|e| Error::new(Reason::Internal, format!("reading the TLS files failed: {e}")))??;
        files.follow(shutdown.clone());
        let tls = ServerTls {
            files,
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: LogThrottle::new(),
        };
        Ok(Some(Arc::new(tls)))
    }

    /// Whether every client must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.current().clients.is_some()
    }

    /// The end of the validity of the daemon's certificate.
    pub fn not_after(&self) -> SystemTime {
        self.files.current().not_after
    }

    /// Reads the files again now. Blocks.
    pub fn reload(&self) {
        self.files.reload();
    }

    /// Why the newest files are not in use; `None` if they are.
    pub fn problem(&self) -> Option<String> {
        self.files.problem()
    }

    /// Handshakes that failed, and connections that ended because the certificate of their client no longer counted.
    pub fn counts(&self) -> (u64, u64) {
        (self.failed.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
    }

    /// Makes the handshake of a new connection, with the newest configuration.
    pub async fn handshake(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<ShownCertificate>)> {
        // First, so that a reload from here on is not missed.
        let reloads = self.files.subscribe();
        let config = Arc::clone(&self.files.current().config);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> =
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let Some(first) = chain.first() else { return Ok((stream, None)) };
        let names =
            PeerCertificate::parse(first).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let names = Arc::new(names);
        Ok((stream, Some(ShownCertificate { names, chain, reloads })))
    }

    /// Logs a handshake that failed, and counts it.
    pub fn handshake_failed(&self, peer: impl std::fmt::Debug, error: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.failures.pass() {
            tracing::warn!(?peer, %error, left_out, "a TLS handshake failed");
        }
    }

    /// Waits until a client's certificate no longer counts, and returns why.
    pub async fn until_refused(&self, shown: &mut ShownCertificate) -> &'static str {
        let end = shown.names.not_after + LAST_SECOND;
        let why = loop {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                break "its client's certificate has expired";
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_AT_CLOCK)) => {}
                Ok(()) = shown.reloads.changed() => {
                    if !self.accepts(&shown.chain) {
                        break "its client's certificate is not from a CA of --tls-client-ca any more";
                    }
                }
            }
        };
        self.ended.fetch_add(1, Ordering::Relaxed);
        why
    }

    /// Whether the newest configuration accepts a client's certificate.
    fn accepts(&self, chain: &[CertificateDer<'static>]) -> bool {
        let settings = self.files.current();
        match (&settings.clients, chain.split_first()) {
            (Some(clients), Some((first, others))) => {
                clients.verify_client_cert(first, others, UnixTime::now()).is_ok()
            }
            (Some(_), None) => false,
            (None, _) => true,
        }
    }
}

/// Reads the certificate, the key and, if it is named, the file of client CAs.
fn open_files(paths: Vec<PathBuf>) -> Result<Arc<ReloadedFiles<TlsSettings>>> {
    ReloadedFiles::open("the TLS files", paths, |files| match files? {
        [certificate, key] => settings(certificate, key, None),
        [certificate, key, clients] => settings(certificate, key, Some(clients)),
        other => Err(Error::new(Reason::Internal, format!("TLS has {} files", other.len()))),
    })
}

fn settings(
    certificate: &WatchedFile,
    key: &WatchedFile,
    client_cas: Option<&WatchedFile>,
) -> Result<TlsSettings> {
    let provider = Arc::new(crypto::ring::default_provider());
    let failed = |what: &str, e: &dyn std::fmt::Display| {
        Error::new(Reason::ArgumentInvalid, format!("cannot use TLS: {what}: {e}"))
    };
    let chain = certificates(certificate)?;
    let names = chain.first().map(|first| PeerCertificate::parse(first)).transpose();
    let names = names.map_err(|e| e.context(certificate.path.display()))?;
    let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|e| {
        failed(&key.path.display().to_string(), &format_args!("no private key in PEM can be read: {e}"))
    })?;
    let clients = client_cas.map(|cas| {
        let mut roots = RootCertStore::empty();
        for ca in certificates(cas)? {
            roots.add(ca).map_err(|e| failed(&cas.path.display().to_string(), &e))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        verifier.build().map_err(|e| failed(&cas.path.display().to_string(), &e))
    });
    let clients = clients.transpose()?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("protocol versions", &e))?;
    let builder = match &clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|e| {
        failed(
            &format!("the key {} and the certificate {}", key.path.display(), certificate.path.display()),
            &e,
        )
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let not_after = names.map_or(SystemTime::UNIX_EPOCH, |names| names.not_after);
    Ok(TlsSettings { config: Arc::new(config), clients, not_after })
}

/// The certificates of a file in PEM: at least one.
fn certificates(file: &WatchedFile) -> Result<Vec<CertificateDer<'static>>> {
    let invalid = |why: String| {
        let message = format!("cannot use TLS: {}: {why}", file.path.display());
        Error::new(Reason::ArgumentInvalid, message)
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.bytes).collect();
    let found = found.map_err(|e| invalid(format!("no certificate in PEM can be read: {e}")))?;
    if found.is_empty() {
        return Err(invalid("it contains no certificate in PEM".to_owned()));
    }
    Ok(found)
}
