//! Real daemons for one scenario: a writer, readers, and what makes them fail.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use driftdb::client::{BearerToken, Client, ClientOptions};
use serde_json::Value;

use super::proxy::Proxy;
use crate::harness::{Daemon, binary};

/// The daemons of a scenario. All of them are killed at the end.
pub struct ScenarioCluster {
    pub writer: Restarted,
    pub readers: Vec<Restarted>,
    pub proxy: Option<Proxy>,
    is_tls: bool,
    tokens: BTreeMap<String, String>,
    /// The last field, so that it is dropped after the daemons.
    dir: tempfile::TempDir,
}

/// A daemon on a port of its own, which it has again when it is started again. Without TLS its loopback address is its own, too: the
/// port of a daemon that was killed could else be that of another test's daemon, which would answer.
pub struct Restarted {
    name: &'static str,
    data: PathBuf,
    options: Vec<String>,
    pub address: String,
    daemon: Option<Daemon>,
}

impl Restarted {
    fn new(name: &'static str, data: PathBuf, options: Vec<String>, is_tls: bool) -> Restarted {
        static DAEMONS: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), DAEMONS.fetch_add(1, Ordering::Relaxed));
        let address = match is_tls {
            // The certificate has this address.
            true => "127.0.0.1:0".to_owned(),
            false => format!("127.{}.{}.{}:0", 64 + (process >> 8) % 64, process % 256, 1 + number % 250),
        };
        let mut restarted = Restarted { name, data, options, address, daemon: None };
        restarted.start();
        restarted
    }

    pub fn start(&mut self) {
        let daemon = Daemon::spawn(self.command()).unwrap();
        self.address = daemon.url.trim_start_matches("http://").to_owned();
        self.daemon = Some(daemon);
    }

    /// Stops the process with its connections open: it says nothing any more.
    #[expect(clippy::disallowed_methods, reason = "this test reads the state of a process")]
    pub fn freeze(&self) {
        let daemon = self.daemon.as_ref().unwrap();
        daemon.signal("STOP");
        while !std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap().contains(") T ") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn thaw(&self) {
        self.daemon.as_ref().unwrap().signal("CONT");
    }

    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Starts the daemon in a while, on a thread of its own.
    pub fn start_after(&mut self, pause: std::time::Duration) -> std::thread::JoinHandle<Daemon> {
        let command = self.command();
        std::thread::spawn(move || {
            std::thread::sleep(pause);
            Daemon::spawn(command).unwrap()
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary(self.name));
        command.arg("--data").arg(&self.data).args(["--listen", &self.address, "--log", "error"]);
        command.args(&self.options);
        command
    }
}

impl ScenarioCluster {
    /// Starts the daemons that a scenario asks for.
    pub async fn start(wanted: &Value) -> ScenarioCluster {
        let dir = tempfile::tempdir().unwrap();
        let is_tls = wanted["tls"].as_bool().unwrap_or(false);
        let mut tokens = BTreeMap::new();
        let options = match is_tls {
            true => secure(&dir, wanted, &mut tokens),
            false => Vec::new(),
        };
        let data = dir.path().join("data");
        let writer = Restarted::new("driftdb-writer", data.clone(), options.clone(), is_tls);
        let mut of_readers = options;
        if let Some(interval) = wanted["poll_interval"].as_str() {
            of_readers.extend(["--follow", "poll", "--poll-interval", interval].map(str::to_owned));
        }
        let readers = (0..wanted["readers"].as_u64().unwrap_or(2))
            .map(|_| Restarted::new("driftdb-reader", data.clone(), of_readers.clone(), is_tls))
            .collect();
        let proxy = match wanted["proxy"].as_bool().unwrap_or(false) {
            true => Some(Proxy::start(writer.address.clone()).await),
            false => None,
        };
        ScenarioCluster { writer, readers, proxy, is_tls, tokens, dir }
    }

    /// The token of a principal, if it has one.
    pub fn token(&self, name: &str) -> Option<BearerToken> {
        self.tokens.get(name).map(|token| BearerToken::new(token).unwrap())
    }

    /// A client of the daemons.
    pub fn client(&self, token: &str, is_tls: Option<bool>, ca: &str) -> Client {
        let writer = self.proxy.as_ref().map_or(&self.writer.address, |proxy| &proxy.address);
        let readers = self.readers.iter().map(|reader| &reader.address);
        let hosts: Vec<&str> = std::iter::once(writer).chain(readers).map(String::as_str).collect();
        let hosts = hosts.join(",");
        let url = match is_tls.unwrap_or(self.is_tls) {
            true => format!("driftdbs://{hosts}?ca={}/ca.pem", self.dir.path().join(ca).display()),
            false => format!("driftdb://{hosts}"),
        };
        let options = ClientOptions { token: self.token(token), ..ClientOptions::default() };
        Client::open_with(options, &url).unwrap()
    }
}

/// Makes certificates, tokens and an auth file. Returns the options of the daemons.
#[expect(clippy::disallowed_methods, reason = "a test writes the files of an operator")]
fn secure(dir: &tempfile::TempDir, wanted: &Value, tokens: &mut BTreeMap<String, String>) -> Vec<String> {
    let path = |name: &str| dir.path().join(name).display().to_string();
    for name in ["certs", "other"] {
        let made = Command::new(binary("driftctl")).args(["cert", "new", &path(name)]).output().unwrap();
        assert!(made.status.success());
    }
    let mut rules = Vec::new();
    for (name, grants) in wanted["tokens"].as_object().into_iter().flatten() {
        let file = path(&format!("{name}.token"));
        let grants = grants.as_array().unwrap().iter().map(|grant| grant.as_str().unwrap());
        let mut command = Command::new(binary("driftctl"));
        let made = command.args(["token", "new", name]).args(grants).args(["--out", &file]).output().unwrap();
        assert!(made.status.success());
        rules.extend(made.stdout);
        tokens.insert(name.clone(), std::fs::read_to_string(file).unwrap());
    }
    std::fs::write(path("auth.toml"), rules).unwrap();
    let certs = path("certs");
    ["--tls-cert", &format!("{certs}/server.pem"), "--tls-key", &format!("{certs}/server-key.pem")]
        .map(str::to_owned)
        .into_iter()
        .chain(["--auth-file".to_owned(), path("auth.toml")])
        .collect()
}
