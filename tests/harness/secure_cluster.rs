//! A database whose writer and reader require TLS and client certificates, and programs that call them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use driftdb::client::{Client, ClientOptions, ClientTls, connect_with};
use driftdb::v1;
use time::Duration;

use super::certificates::{CertificateFiles, TestCa, put};
use super::{Daemon, Reader, Writer, binary};

/// A writer and a reader with TLS, which accept the client certificates of one CA.
pub struct SecureCluster {
    pub writer_daemon: Daemon,
    pub reader_daemon: Daemon,
    /// Signs the certificates of the daemons and of the clients.
    pub ca: TestCa,
    /// The files that the daemons follow.
    pub server: CertificateFiles,
    pub client_ca: PathBuf,
    /// The CAs that clients trust.
    pub trusted: PathBuf,
    /// The certificate of a client with the common name `client`.
    pub client: CertificateFiles,
    /// The last field, so that it is dropped after the daemons.
    pub dir: tempfile::TempDir,
}

/// A data directory, and certificates beside it.
pub struct SecureFiles {
    pub ca: TestCa,
    pub server: CertificateFiles,
    pub client_ca: PathBuf,
    pub trusted: PathBuf,
    pub client: CertificateFiles,
    pub dir: tempfile::TempDir,
}

impl SecureFiles {
    /// Makes a CA, and certificates for this machine and for a client.
    pub fn new() -> SecureFiles {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new("CA");
        let server = ca.server(dir.path(), "server", Duration::hours(10));
        let client = ca.client(dir.path(), "client", Duration::hours(1));
        let [client_ca, trusted] = ["client-ca.pem", "trusted.pem"].map(|name| dir.path().join(name));
        put(&client_ca, &ca.pem);
        put(&trusted, &ca.pem);
        SecureFiles { ca, server, client_ca, trusted, client, dir }
    }

    /// The options of a daemon with TLS that asks for client certificates.
    pub fn options(&self) -> Vec<String> {
        let mut options = self.options_without_clients();
        options.extend(["--tls-client-ca".to_owned(), self.client_ca.display().to_string()]);
        options
    }

    /// The options of a daemon with TLS that serves every client.
    pub fn options_without_clients(&self) -> Vec<String> {
        let CertificateFiles { certificate, key } = &self.server;
        let options = ["--tls-cert", &certificate.display().to_string(), "--tls-key", &key.display().to_string()];
        options.map(str::to_owned).to_vec()
    }

    /// Starts a daemon with these options.
    pub fn start(&self, name: &str, options: &[String]) -> Daemon {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut daemon = Daemon::start(name, &self.dir.path().join("data"), &options);
        daemon.url = daemon.url.replace("http://", "https://");
        daemon
    }
}

impl SecureCluster {
    /// Starts a writer and a reader with TLS that ask for client certificates.
    pub fn start() -> SecureCluster {
        SecureCluster::start_with(&[])
    }

    /// Starts both daemons with further options.
    pub fn start_with(more: &[&str]) -> SecureCluster {
        let files = SecureFiles::new();
        let mut options = files.options();
        options.extend(more.iter().map(|&option| option.to_owned()));
        let writer_daemon = files.start("driftdb-writer", &options);
        let reader_daemon = files.start("driftdb-reader", &options);
        let SecureFiles { ca, server, client_ca, trusted, client, dir } = files;
        SecureCluster { writer_daemon, reader_daemon, ca, server, client_ca, trusted, client, dir }
    }

    /// TLS of the client whose certificate was made with the cluster.
    pub fn tls(&self) -> ClientTls {
        self.client.of_client(&self.trusted)
    }

    /// A client of both daemons.
    pub fn client_with(&self, tls: ClientTls) -> Client {
        let options = ClientOptions { tls: Some(tls), ..ClientOptions::default() };
        Client::with(options, [&self.writer_daemon.url], [&self.reader_daemon.url])
    }

    /// A connection to the writer.
    pub async fn writer(&self, tls: &ClientTls) -> Result<Writer, tonic::Status> {
        connect_with(&self.writer_daemon.url, Some(tls)).await.map(Writer::new)
    }

    /// A connection to the reader.
    pub async fn reader(&self, tls: &ClientTls) -> Result<Reader, tonic::Status> {
        connect_with(&self.reader_daemon.url, Some(tls)).await.map(Reader::new)
    }

    /// How the writer says that it is protected.
    pub async fn writer_security(&self) -> v1::SecurityState {
        let mut writer = self.writer(&self.tls()).await.unwrap();
        writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().security.unwrap()
    }

    /// How the reader says that it is protected.
    pub async fn reader_security(&self) -> v1::SecurityState {
        let mut reader = self.reader(&self.tls()).await.unwrap();
        reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner().security.unwrap()
    }

    /// A command line for this cluster, with TLS from the environment.
    pub fn driftctl(&self, tls: &ClientTls, args: &[&str]) -> Command {
        let mut command = Command::new(binary("driftctl"));
        command.env("DRIFTDB_WRITER", &self.writer_daemon.url).env("DRIFTDB_READER", &self.reader_daemon.url);
        command.env("DRIFTDB_TLS_CA", &tls.ca);
        if let Some(identity) = &tls.identity {
            command.env("DRIFTDB_TLS_CLIENT_CERT", &identity.certificate);
            command.env("DRIFTDB_TLS_CLIENT_KEY", &identity.key);
        }
        if let Some(name) = &tls.server_name {
            command.env("DRIFTDB_TLS_SERVER_NAME", name);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command line, which must succeed. Returns its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.driftctl(&self.tls(), args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What a program has printed on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
