//! The units for systemd: their options are the programs', and they are set up as the notifications of the daemons need it.

use std::collections::BTreeMap;
use std::process::Command;

use super::{directory, has_tool, page};
use crate::harness::binary;

const UNITS: [&str; 2] = ["driftdb-writer", "driftdb-reader"];

/// The settings of a unit, each with its values in order.
fn settings(unit: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page(&format!("systemd/{unit}.service")).lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            found.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    found
}

#[test]
fn the_units_start_the_daemons_with_options_that_they_have() {
    for unit in UNITS {
        let settings = settings(unit);
        let one = |name: &str| settings[name][0].as_str();
        assert_eq!((one("Type"), one("NotifyAccess"), one("DynamicUser")), ("notify", "main", "yes"));
        assert_eq!(one("ExecStart"), format!("/usr/local/bin/{unit}"));
        assert_eq!(one("ExecReload"), "/bin/kill -HUP $MAINPID");
        // Half of it is the interval of the notifications, which must be longer than the daemon's own patience with its locks.
        assert!(one("WatchdogSec").parse::<u64>().unwrap() >= 20);
        assert!(one("TimeoutStopSec").parse::<u64>().unwrap() > 12, "a daemon drains for ten seconds");
        let help = Command::new(binary(unit)).arg("--help").output().unwrap().stdout;
        let help = String::from_utf8(help).unwrap();
        for assignment in settings["Environment"].iter().flat_map(|value| value.split(' ')) {
            let (name, value) = assignment.split_once('=').unwrap();
            assert!(help.contains(&format!("[env: {name}=")), "{unit} has no {name}");
            if name == "DRIFTDB_DATA" {
                assert_eq!(value, format!("/var/lib/{}", one("StateDirectory")));
            }
        }
    }
    assert_eq!(settings(UNITS[0])["User"], settings(UNITS[1])["User"], "they share the directory");
}

#[test]
fn systemd_accepts_the_units() {
    if !has_tool("systemd-analyze", "--version") {
        return;
    }
    // The programs are where the tests have them, and not where a unit installs them.
    let held = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = page(&format!("systemd/{unit}.service"));
        let text = text.replace(&format!("/usr/local/bin/{unit}"), &binary(unit).display().to_string());
        std::fs::write(held.path().join(format!("{unit}.service")), text).unwrap();
    }
    for unit in UNITS {
        let path = held.path().join(format!("{unit}.service"));
        let output =
            Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Without a running systemd it cannot load the units of others.
        let about_ours: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(about_ours.is_empty(), "{about_ours:#?}\n{said}");
    }
    assert!(directory().join("README.md").exists());
}
