//! The contexts of driftctl: named databases in the user's configuration file.

#![expect(clippy::disallowed_methods, reason = "these tests look at the file of a user")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::access::{SecuredCluster, principal, token_of};
use crate::harness::secure_cluster::SecureFiles;
use crate::harness::{Cluster, binary};

/// A user with a directory for configuration files.
struct User(tempfile::TempDir);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl User {
    fn new() -> User {
        User(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("driftctl/config.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("driftctl"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DRIFT")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.0.path()).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args))
    }

    /// Runs a command that must succeed.
    fn does(&self, args: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.run(args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        stdout
    }

    /// The names of all contexts, the current one with a star.
    fn names(&self) -> Vec<String> {
        let name = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap();
            let star = if record["current"] == true { "*" } else { "" };
            format!("{}{star}", record["name"].as_str().unwrap())
        };
        self.does(&["context", "list", "-o", "jsonl"]).lines().map(name).collect()
    }
}

fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_context_names_a_database_and_options_come_before_it() {
    let mut cluster = Cluster::start().await;
    cluster.create("here").await;
    let (writer, reader) = (cluster.writer_daemon.url.clone(), cluster.reader_daemon.url.clone());
    let user = User::new();
    assert!(user.names().is_empty() && !user.file().exists());
    user.does(&["context", "add", "live", "--writer", &writer, "--reader", &reader, "-o", "csv"]);
    let other = user.0.path().join("other");
    user.does(&["-d", other.to_str().unwrap(), "sql", "CREATE TABLE there (pk=id)"]);
    user.does(&["context", "add", "copy", "-d", other.to_str().unwrap()]);
    assert_eq!(user.names(), ["copy", "live"]);

    user.does(&["context", "use", "live"]);
    assert_eq!(user.names(), ["copy", "live*"]);
    let tables = |args: &[&str]| user.does(&[args, &["sql", "SHOW TABLES"]].concat());
    assert!(tables(&[]).starts_with("table,primary_key"), "the format is the context's");
    assert!(tables(&[]).contains("\nhere,") && tables(&["-o", "jsonl"]).starts_with("{\"table\":\"here\""));
    // A flag comes before the variable, and both come before the current context.
    assert!(tables(&["--context", "copy"]).contains("\"there\""));
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = user.command(&[args, &["sql", "SHOW TABLES"]].concat());
        command.envs(variables.iter().copied());
        ran(command)
    };
    let copy = [("DRIFTCTL_CONTEXT", "copy")];
    assert!(with(&copy, &[]).stdout.contains("\"there\""));
    assert!(with(&copy, &["--context", "live"]).stdout.contains("\nhere,"));
    assert!(with(&[("DRIFTDB_DATA", other.to_str().unwrap())], &[]).stdout.contains("\nthere,"));
    assert!(tables(&["-d", other.to_str().unwrap()]).contains("\nthere,"));
    // Whoever names a context on the command line means its database, and no part of another one.
    for variable in ["DRIFTDB_DATA", "DRIFTDB_WRITER", "DRIFTDB_READER"] {
        let value = if variable == "DRIFTDB_DATA" { other.to_str().unwrap() } else { "http://127.0.0.1:1" };
        let found = with(&[(variable, value)], &["--context", "live"]);
        assert!(found.stdout.contains("\nhere,"), "{variable}: {}", found.stderr);
        let mut written = user.command(&["--context", "live", "sql", "UPSERT INTO here {\"id\": \"a\"}"]);
        written.env(variable, value);
        let written = ran(written);
        assert_eq!(written.code, 0, "{variable}: {}", written.stderr);
    }
    let none =
        with(&[], &["--context", "", "--reader", "http://127.0.0.1:1", "--writer", "http://127.0.0.1:1"]);
    assert_eq!((none.code, none.stdout.as_str()), (3, ""), "{}", none.stderr);
    // The writer of the context is not asked for what the directory of another has.
    assert!(tables(&["--context", "copy", "--reader", &reader, "--writer", &writer]).contains("\"here\""));

    let shown: Value = serde_json::from_str(&user.does(&["context", "show", "-o", "jsonl"])).unwrap();
    assert_eq!((&shown["name"], &shown["writer"][0]), (&Value::from("live"), &Value::from(writer)));
    user.does(&["context", "remove", "live"]);
    assert_eq!(user.names(), ["copy"]);
    user.does(&["context", "use", "copy"]);
    user.does(&["context", "use", "--none"]);
    assert_eq!(user.names(), ["copy"]);
}

#[test]
fn commands_that_make_or_load_a_database_use_a_context_only_if_it_is_named() {
    let user = User::new();
    user.does(&[
        "context",
        "add",
        "wrong",
        "--writer",
        "http://127.0.0.1:1",
        "--reader",
        "http://127.0.0.1:1",
    ]);
    user.does(&["context", "use", "wrong"]);
    assert_eq!(user.run(&["status"]).code, 3);
    let dir = user.0.path().join("new");
    user.does(&["init", dir.to_str().unwrap()]);
    user.does(&["doctor", "-d", dir.to_str().unwrap()]);
    user.does(&["context", "add", "dir", "-d", dir.to_str().unwrap()]);
    user.does(&["context", "use", "dir"]);
    let without = user.run(&["doctor"]);
    assert!(without.code == 2 && without.stderr.contains("needs a data directory"), "{}", without.stderr);
    user.does(&["--context", "dir", "doctor"]);
}

#[test]
fn mistakes_are_named_with_the_file_the_line_and_what_is_near() {
    let user = User::new();
    user.does(&["context", "add", "prod", "--writer", "http://127.0.0.1:1"]);
    for (args, what) in [
        (&["--context", "prdo", "status"][..], "did you mean \"prod\"?"),
        (&["context", "use", "prodd"], "did you mean \"prod\"?"),
        (&["context", "add", "prod", "-d", "x"], "--replace"),
        (&["context", "add", "a b", "-d", "x"], "letters, digits"),
        (&["context", "add", "empty"], "no options"),
        (&["context", "show"], "no context is in use"),
    ] {
        let Ran { code, stderr, .. } = user.run(args);
        assert!(code == 1 && stderr.contains(what), "{args:?}: {stderr}");
    }
    fs::write(user.file(), "[context.prod]\nwritr = [\"x\"]\n").unwrap();
    set_mode(&user.file(), 0o600);
    let Ran { code, stderr, .. } = user.run(&["status"]);
    let place = format!("{}:2: unknown field `writr`", user.file().display());
    assert!(code == 1 && stderr.contains(&place), "{stderr}");
}

#[test]
fn files_that_others_could_use_are_refused() {
    let user = User::new();
    let token = user.0.path().join("token");
    fs::write(&token, "driftdb_x").unwrap();
    set_mode(&token, 0o600);
    let add =
        ["context", "add", "a", "--writer", "http://127.0.0.1:1", "--token-file", token.to_str().unwrap()];
    user.does(&add);
    user.does(&["context", "use", "a"]);
    let mode = fs::metadata(user.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    for (path, mode, what) in [
        (&token, 0o640, "others may read or change it (its permissions are 0640); run `chmod 600"),
        (&user.file(), 0o622, "others may change it (its permissions are 0622); run `chmod 600"),
    ] {
        set_mode(path, mode);
        let Ran { code, stderr, .. } = user.run(&["status"]);
        assert!(
            code == 1 && stderr.contains(what) && stderr.contains(&path.display().to_string()),
            "{stderr}"
        );
        set_mode(path, 0o600);
    }
    // What others may only read has no secret.
    set_mode(&user.file(), 0o644);
    assert_eq!(user.run(&["status"]).code, 3);
    let key = user.0.path().join("key.pem");
    fs::write(&key, "").unwrap();
    set_mode(&key, 0o644);
    let add = ["context", "add", "b", "-d", "x", "--tls-ca", "x", "--tls-cert", "x", "--tls-key"];
    let key = key.display().to_string();
    let Ran { code, stderr, .. } = user.run(&[&add[..], &[&key]].concat());
    assert!(code == 1 && stderr.contains("others may read"), "{stderr}");
}

#[test]
fn of_many_changes_at_once_none_is_lost() {
    let user = User::new();
    fs::create_dir_all(user.file().parent().unwrap()).unwrap();
    fs::write(user.file(), "# Do not lose this line.\n").unwrap();
    set_mode(&user.file(), 0o600);
    let names: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let running: Vec<_> = names
        .iter()
        .map(|name| user.command(&["context", "add", name, "-d", "/x"]).spawn().unwrap())
        .collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    let mut found = user.names();
    found.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    assert_eq!(found, names);
    let text = fs::read_to_string(user.file()).unwrap();
    assert!(text.starts_with("# Do not lose this line.\n"), "{text}");
}

#[tokio::test]
async fn a_context_has_the_certificates_and_the_token_of_a_database() {
    let files = SecureFiles::new();
    let cluster = SecuredCluster::start_with_tls(files, true, &[principal("ann", "read mine")]);
    cluster.fill(&["mine", "theirs"]).await;
    let user = User::new();
    let token = user.0.path().join("ann.token");
    fs::write(&token, token_of("ann")).unwrap();
    let tls = cluster.tls.clone().unwrap();
    let identity = tls.identity.unwrap();
    [&token, &identity.key].iter().for_each(|path| set_mode(path, 0o600));
    let text = |path: &PathBuf| path.display().to_string();
    let options = [
        ("--writer", cluster.writer.url.clone()),
        ("--reader", cluster.reader.url.clone()),
        ("--tls-ca", text(&tls.ca)),
        ("--tls-cert", text(&identity.certificate)),
        ("--tls-key", text(&identity.key)),
        ("--token-file", text(&token)),
    ];
    let options: Vec<&str> = options.iter().flat_map(|(name, value)| [*name, value.as_str()]).collect();
    user.does(&[&["context", "add", "safe"][..], &options].concat());
    let rows = user.does(&["--context", "safe", "select", "mine"]);
    assert_eq!(rows, "{\"id\":\"k\",\"secret\":\"of mine\"}\n");
    assert_eq!(user.run(&["--context", "safe", "select", "theirs"]).code, 4);
    user.does(&["--context", "safe", "health"]);
    // A daemon that is named without the context gets none of its secrets.
    user.does(&["context", "use", "safe"]);
    let select = ["--reader", cluster.reader.url.as_str(), "select", "mine"];
    assert_ne!(user.run(&select).code, 0);
    assert_eq!(user.does(&[&["--context", "safe"][..], &select].concat()), rows);
}
