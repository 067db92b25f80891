//! Daemons that ask who calls: an auth file, and clients with tokens.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use driftdb::client::{
    BearerToken, Client, ClientOptions, ClientTls, Credentials, ReaderApi, WriterApi, connect_with,
    reader_with, writer_with,
};
use driftdb::v1;
use driftdb_common::service::access::token::TokenHash;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::calls::fresh;
use super::secure_cluster::SecureFiles;
use super::{Daemon, binary, insert};

/// The token of a principal in tests.
pub fn token_of(name: &str) -> String {
    format!("driftdb_test_token_of_{name}")
}

/// A principal for an auth file, with a token. `grants` are roles with patterns: `read a*, write b`; `admin` alone means everything.
pub fn principal(name: &str, grants: &str) -> String {
    expiring_principal(name, grants, "")
}

/// A principal whose token ends.
pub fn expiring_principal(name: &str, grants: &str, expires: &str) -> String {
    let rights = match grants {
        "admin" => "admin = true".to_owned(),
        grants => {
            let grants = grants.split(',').map(str::trim).filter(|grant| !grant.is_empty()).map(|grant| {
                let (role, tables) = grant.split_once(' ').unwrap();
                format!("{{ tables = [\"{tables}\"], role = \"{role}\" }}")
            });
            format!("grants = [{}]", grants.collect::<Vec<_>>().join(", "))
        }
    };
    let expires = if expires.is_empty() { String::new() } else { format!("expires = {expires}\n") };
    let hash = TokenHash::of(&token_of(name));
    format!(
        "[[principal]]\nname = \"{name}\"\n{rights}\n[[principal.token]]\nsha256 = \"{hash}\"\n{expires}\n"
    )
}

/// A database whose daemons ask who calls.
pub struct SecuredCluster {
    pub writer: Daemon,
    pub reader: Daemon,
    pub rules: PathBuf,
    /// If the daemons require TLS: that of a client that they accept.
    pub tls: Option<ClientTls>,
    /// The last field, so that it is dropped after the daemons.
    pub dir: tempfile::TempDir,
}

impl SecuredCluster {
    /// Starts both daemons with these principals, and `root`, who may do everything.
    pub fn start(principals: &[String]) -> SecuredCluster {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("auth.toml");
        write_rules(&rules, principals);
        let data = dir.path().join("data");
        let args = ["--auth-file", rules.to_str().unwrap()];
        let writer = Daemon::start("driftdb-writer", &data, &args);
        let reader = Daemon::start("driftdb-reader", &data, &args);
        SecuredCluster { writer, reader, rules, tls: None, dir }
    }

    /// Starts both daemons with TLS, which ask for client certificates if `for_clients` is set.
    pub fn start_with_tls(files: SecureFiles, for_clients: bool, principals: &[String]) -> SecuredCluster {
        let rules = files.dir.path().join("auth.toml");
        write_rules(&rules, principals);
        let mut options = if for_clients { files.options() } else { files.options_without_clients() };
        options.extend(["--auth-file".to_owned(), rules.display().to_string()]);
        let writer = files.start("driftdb-writer", &options);
        let reader = files.start("driftdb-reader", &options);
        let tls = match for_clients {
            true => files.client.of_client(&files.trusted),
            false => ClientTls::new(&files.trusted),
        };
        SecuredCluster { writer, reader, rules, tls: Some(tls), dir: files.dir }
    }

    /// A connection to a daemon of the cluster.
    pub async fn channel(&self, daemon: &Daemon) -> Channel {
        connect_with(&daemon.url, self.tls.as_ref()).await.unwrap()
    }

    /// Replaces the principals, except `root`.
    pub fn set_rules(&self, principals: &[String]) {
        write_rules(&self.rules, principals);
    }

    /// The writer, as a principal calls it.
    pub async fn writer_as(&self, name: &str) -> WriterApi {
        let token = BearerToken::new(&token_of(name)).unwrap();
        writer_with(self.channel(&self.writer).await, Credentials::new(Some(token), &self.writer.url))
    }

    /// The same over a connection of its own with small receive windows: the writer soon notices if the test stops reading.
    pub async fn narrow_writer_as(&self, name: &str) -> WriterApi {
        let endpoint = Endpoint::from_shared(self.writer.url.clone()).unwrap();
        let endpoint = endpoint.initial_stream_window_size(16 << 10).initial_connection_window_size(64 << 10);
        let token = BearerToken::new(&token_of(name)).unwrap();
        writer_with(endpoint.connect().await.unwrap(), Credentials::new(Some(token), &self.writer.url))
    }

    /// The reader, as a principal calls it.
    pub async fn reader_as(&self, name: &str) -> ReaderApi {
        let token = BearerToken::new(&token_of(name)).unwrap();
        reader_with(self.channel(&self.reader).await, Credentials::new(Some(token), &self.reader.url))
    }

    /// A client of both daemons.
    pub fn client_as(&self, name: &str) -> Client {
        let token = Some(BearerToken::new(&token_of(name)).unwrap());
        let retry_timeout = Duration::from_secs(5);
        let options =
            ClientOptions { token, retry_timeout, tls: self.tls.clone(), ..ClientOptions::default() };
        Client::with(options, [&self.writer.url], [&self.reader.url])
    }

    /// Creates tables, each with the row `k`, and returns the last commit once the reader has it.
    pub async fn fill(&self, tables: &[&str]) -> u64 {
        let mut writer = self.writer_as("root").await;
        let mut last = 0;
        for table in tables {
            let request = v1::CreateTableRequest { table: (*table).into(), ..Default::default() };
            writer.create_table(request).await.unwrap();
            let operations = vec![insert(table, format!(r#"{{"id":"k","secret":"of {table}"}}"#))];
            let request = v1::ApplyRequest { operations, ..Default::default() };
            last = writer.apply(request).await.unwrap().into_inner().token.unwrap().seq;
        }
        let request = v1::ListTablesRequest { freshness: fresh(last), ..Default::default() };
        self.reader_as("root").await.list_tables(request).await.unwrap();
        last
    }
}

/// Replaces an auth file in one step, as an editor or an orchestrator does.
#[expect(clippy::disallowed_methods, reason = "a test writes the file that an operator writes")]
pub fn write_rules(path: &Path, principals: &[String]) {
    let text = principal("root", "admin") + &principals.concat();
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Runs driftctl on a cluster, with the token of a principal if one is named. Returns its exit code and what it printed.
#[expect(clippy::disallowed_methods, reason = "a test writes the file that a user writes")]
pub fn driftctl(cluster: &SecuredCluster, name: Option<&str>, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(binary("driftctl"));
    command.args(args).args(["-o", "jsonl"]).env_remove("DRIFTDB_TOKEN_FILE").stdin(Stdio::null());
    command.env("DRIFTDB_WRITER", &cluster.writer.url).env("DRIFTDB_READER", &cluster.reader.url);
    if let Some(name) = name {
        let file = cluster.dir.path().join(format!("{name}.token"));
        std::fs::write(&file, token_of(name)).unwrap();
        command.env("DRIFTDB_TOKEN_FILE", &file);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Runs a statement on the writer to its end.
pub async fn execute(writer: &mut WriterApi, statement: &str) -> Result<(), Status> {
    let request = v1::WriterServiceExecuteRequest { statement: statement.into(), ..Default::default() };
    let mut answers = writer.execute(request).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Runs a statement on the reader to its end, and returns the answers as debug text.
pub async fn query(reader: &mut ReaderApi, statement: &str) -> Result<String, Status> {
    let request = v1::ReaderServiceExecuteRequest { statement: statement.into(), ..Default::default() };
    let mut answers = reader.execute(request).await?.into_inner();
    let mut text = String::new();
    while let Some(answer) = answers.message().await? {
        text += &format!("{answer:?}\n");
    }
    Ok(text)
}
