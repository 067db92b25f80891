//! The configuration files of both daemons: every option, the precedence of its sources, and errors that say where they are.

#![expect(clippy::disallowed_methods, reason = "these tests write the files of an operator")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Daemon, binary};

const DAEMONS: [&str; 2] = ["driftdb-writer", "driftdb-reader"];
/// The options that a file cannot have.
const NOT_IN_FILE: [&str; 5] = ["config", "print-config", "man", "help", "version"];

/// A daemon's command line, with none of the variables of whoever runs the tests.
fn command(daemon: &str) -> Command {
    let mut command = Command::new(binary(daemon));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DRIFTDB_")) {
        command.env_remove(name);
    }
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The options in the help text, each with its environment variable, if it has one.
fn options(daemon: &str) -> BTreeMap<String, Option<String>> {
    let help = stdout(&command(daemon).arg("--help").output().unwrap());
    let mut found = BTreeMap::new();
    let mut last = String::new();
    for line in help.lines() {
        let words = line.trim_start();
        let long = words.strip_prefix("-d, --").or(words.strip_prefix("--"));
        if let Some(long) = long.filter(|_| line.starts_with("  ") && line.len() - words.len() < 8) {
            let end = long.find(|c: char| !(c.is_alphanumeric() || c == '-')).unwrap_or(long.len());
            last = long[..end].to_owned();
            found.insert(last.clone(), None);
        }
        if let Some((_, variable)) = line.split_once("[env: ") {
            let variable = variable.split(['=', ']']).next().unwrap().to_owned();
            found.insert(last.clone(), Some(variable));
        }
    }
    NOT_IN_FILE.iter().for_each(|name| _ = found.remove(*name));
    assert!(found.len() > 20, "{help}");
    found
}

/// What --print-config says: the value of each option, and where it is from.
fn printed(mut command: Command) -> BTreeMap<String, (String, String)> {
    let text = stdout(&command.arg("--print-config").output().unwrap());
    let line = |line: &str| {
        if let Some(name) = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
            return Some((name.to_owned(), (String::new(), "not set".to_owned())));
        }
        let (setting, origin) = line.split_once("  # ")?;
        let (name, value) = setting.split_once(" = ")?;
        Some((name.to_owned(), (value.to_owned(), origin.to_owned())))
    };
    text.lines().filter_map(line).collect()
}

/// A value for each option, as TOML: its default, or one that the option takes.
fn samples(daemon: &str, dir: &Path) -> BTreeMap<String, String> {
    let mut plain = command(daemon);
    plain.arg("--data").arg(dir);
    let mut samples = BTreeMap::new();
    for (name, (value, origin)) in printed(plain) {
        if value == "false" {
            samples.insert(name, "true".to_owned());
        } else if origin != "not set" {
            samples.insert(name, value);
        } else {
            let file = dir.join("candidate.toml");
            let takes = |value: &&str| {
                fs::write(&file, format!("{name} = {value}\n")).unwrap();
                let output =
                    command(daemon).arg("--config").arg(&file).arg("--print-config").output().unwrap();
                !String::from_utf8_lossy(&output.stderr).contains("invalid value")
            };
            let candidates = ["\"127.0.0.1:1\"", "\"writes\"", "\"1s\"", "1", "\"x\""];
            let value = candidates.iter().find(|value| takes(value));
            samples
                .insert(name.clone(), (*value.unwrap_or_else(|| panic!("no value for --{name}"))).to_owned());
        }
    }
    samples
}

#[test]
fn every_option_can_be_in_the_file_and_the_environment_and_the_command_line_come_before_it() {
    for daemon in DAEMONS {
        let dir = tempfile::tempdir().unwrap();
        let (options, samples) = (options(daemon), samples(daemon, dir.path()));
        let names: BTreeSet<&String> = options.keys().collect();
        assert_eq!(
            samples.keys().collect::<BTreeSet<_>>(),
            names,
            "{daemon}: an option that --print-config lacks"
        );

        let file = dir.path().join("all.toml");
        let lines = samples.iter().map(|(name, value)| format!("{name} = {value}\n"));
        fs::write(&file, lines.collect::<String>()).unwrap();
        let with_file = || {
            let mut command = command(daemon);
            command.arg("--config").arg(&file);
            command
        };
        let from_file = printed(with_file());
        for (line, name) in samples.keys().enumerate() {
            let expected = format!("{}:{}", file.display(), line + 1);
            assert_eq!(from_file[name].1, expected, "{daemon} --{name}");
        }

        let text = |value: &str| value.trim_matches('"').to_owned();
        let mut with_environment = with_file();
        for (name, variable) in &options {
            if let Some(variable) = variable {
                with_environment.env(variable, text(&samples[name]));
            }
        }
        let from_environment = printed(with_environment);
        let mut with_arguments = with_file();
        for (name, variable) in &options {
            if let Some(variable) = variable {
                with_arguments.env(variable, text(&samples[name]));
            }
            match samples[name].as_str() {
                "true" => with_arguments.arg(format!("--{name}")),
                value => with_arguments.arg(format!("--{name}={}", text(value))),
            };
        }
        let from_arguments = printed(with_arguments);
        for (name, variable) in &options {
            if let Some(variable) = variable {
                let expected = format!("the environment: {variable}");
                assert_eq!(from_environment[name].1, expected, "{daemon} --{name}");
            }
            assert_eq!(from_arguments[name].1, "the command line", "{daemon} --{name}");
            assert_eq!(from_arguments[name].0, from_file[name].0, "{daemon} --{name}");
        }

        // What is printed is a file with the same values.
        let again = dir.path().join("again.toml");
        fs::write(&again, stdout(&with_file().arg("--print-config").output().unwrap())).unwrap();
        let mut command = command(daemon);
        command.arg("--config").arg(&again);
        let values = |printed: &BTreeMap<String, (String, String)>| {
            printed.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(&printed(command)), values(&from_file));
    }
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line_and_what_is_near() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.toml");
    for daemon in DAEMONS {
        for (text, line, what) in [
            (
                "data = \"x\"\nlissten = \"127.0.0.1:0\"\n",
                2,
                "unknown key \"lissten\"; did you mean \"listen\"?",
            ),
            ("log_format = \"json\"\n", 1, "unknown key \"log_format\"; did you mean \"log-format\"?"),
            ("log-format = \"xml\"\n", 1, "for \"log-format\": possible values are text, json"),
            ("\n\ncache = \"much\"\n", 3, "invalid value \"much\" for \"cache\": invalid digit"),
            ("cache = [1]\n", 1, "for \"cache\": expected a text in quotes, or a number, found a list"),
            ("help = true\n", 1, "\"help\" can only be given on the command line"),
            ("data = \"x\"\ndata = \"y\"\n", 2, "duplicate key"),
        ] {
            fs::write(&file, text).unwrap();
            let output = command(daemon).arg("--config").arg(&file).output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{error}");
            let place = format!("{}:{line}: ", file.display());
            assert!(error.contains(&place) && error.contains(what), "{text}: {error}");
        }
        let output = command(daemon).args(["--config", "nowhere.toml"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains("nowhere.toml"), "{error}");
    }
}

#[tokio::test]
async fn a_daemon_runs_with_nothing_but_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("writer.toml");
    let data = dir.path().join("data");
    fs::write(&file, format!("data = {data:?}\nlisten = \"127.0.0.1:0\"\nlog = \"warn\"\nstandby = false\n"))
        .unwrap();
    let mut by_option = command("driftdb-writer");
    by_option.arg("--config").arg(&file);
    let mut writer = Daemon::spawn(by_option).unwrap();
    let status = writer.as_writer().await.status(driftdb::v1::WriterServiceStatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().last_seq, 0);
    assert!(writer.terminate().await.success());
    let mut by_variable = command("driftdb-writer");
    by_variable.env("DRIFTDB_CONFIG", &file);
    let mut writer = Daemon::spawn(by_variable).unwrap();
    assert!(writer.terminate().await.success());
    assert!(data.join("HEAD").exists());
}

#[test]
fn daemons_print_their_manual_pages() {
    for daemon in DAEMONS {
        let page = stdout(&command(daemon).arg("--man").output().unwrap());
        let title = format!(".TH {daemon} 1");
        for part in [title.as_str(), ".SH SYNOPSIS", "\\-\\-max\\-connection\\-age", ".SH EXAMPLES\n.nf\n"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}

#[test]
fn the_file_in_the_documentation_works_as_it_is() {
    let page = fs::read_to_string(format!("{}/docs/operate.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (_, rest) = page.split_once("```toml\n# writer.toml").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("writer.toml");
    fs::write(&file, format!("# writer.toml{text}")).unwrap();
    let printed =
        stdout(&command("driftdb-writer").arg("--config").arg(&file).arg("--print-config").output().unwrap());
    assert!(printed.contains("audit-log = \"/var/log/driftdb/audit.log\""), "{printed}");
}
