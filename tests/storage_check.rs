//! `driftctl storage-check` as a program: it approves what is safe, prints UNSAFE for what is not, and leaves nothing
//! behind.

#![expect(clippy::disallowed_methods, reason = "these tests look at what the check leaves behind")]

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::binary;
use serde_json::Value;

fn check(args: &[&Path]) -> Output {
    let mut command = Command::new(binary("driftctl"));
    command.arg("storage-check").args(args).env_remove("DRIFTDB_DATA").output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_local_directory_passes_every_check() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "untouched").unwrap();
    let other = tempfile::tempdir().unwrap();
    let link = other.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    for args in [&[dir.path()][..], &[dir.path(), Path::new("--peer"), &link]] {
        let output = check(args);
        let told = lines(&output);
        assert_eq!(output.status.code(), Some(0), "{told:?} {output:?}");
        let checks: Vec<&str> = told.iter().map(|line| line["check"].as_str().unwrap()).collect();
        let expected = [
            "same storage",
            "lock",
            "lock after a kill",
            "rename",
            "append, file kept open",
            "append, file reopened",
            "append, read past caches",
            "listing",
            "sync",
            "unlink while open",
            "change notifications",
            "writer",
            "readers",
        ];
        assert_eq!(checks, expected);
        // On a busy machine anything may be slow.
        let fine = |line: &Value| ["ok", "slow"].contains(&line["result"].as_str().unwrap());
        assert!(told.iter().all(fine), "{told:?}");
        assert!(told[12]["means"].as_str().unwrap().contains("--follow"), "{told:?}");
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["mine"]);
    }
}

#[test]
#[ignore = "slow"]
fn storage_that_is_not_shared_is_unsafe() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = check(&[one.path(), Path::new("--peer"), other.path()]);
    let told = lines(&output);
    assert_eq!(output.status.code(), Some(6), "{told:?}");
    let ends: Vec<(&str, &str)> =
        told.iter().map(|line| (line["check"].as_str().unwrap(), line["result"].as_str().unwrap())).collect();
    assert_eq!(ends, [("same storage", "UNSAFE"), ("writer", "UNSAFE"), ("readers", "UNSAFE")]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("UNSAFE"));
    assert!(is_empty(one.path()) && is_empty(other.path()));
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let missing = dir.path().join("missing");
    for args in [&[file.as_path()][..], &[&missing], &[dir.path(), Path::new("--peer"), &file]] {
        let output = check(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot check"), "{output:?}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
