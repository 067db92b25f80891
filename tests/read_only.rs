//! doctor and verify examine a database that they cannot write, and change nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "this test copies programs, changes permissions and runs driftctl"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::*;

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

fn shell(script: &str, dir: &Path) {
    assert!(Command::new("sh").args(["-c", script]).arg(dir).status().unwrap().success(), "{script}");
}

/// Every file with its content and the time of its last change.
fn state(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let changed = path.metadata().unwrap().modified().unwrap();
                found.insert(path.clone(), (std::fs::read(&path).unwrap(), changed));
            }
        }
    }
    found
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn an_examination_needs_no_right_to_write() {
    let probe = Command::new("setpriv").args(NOBODY).args(["id", "-u"]).output();
    if !probe.is_ok_and(|output| output.stdout == b"65534\n") {
        eprintln!("skipped: setpriv cannot become another user here");
        return;
    }
    let (dir, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = dir.path().join("db");
    let mut daemon = Daemon::writer(&data);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    apply(&mut writer, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    calls::snapshot(&mut writer, "t").await.unwrap();
    apply(&mut writer, vec![insert("t", r#"{"id":"b"}"#)]).await.unwrap();
    let program = tools.path().join("driftctl");
    std::fs::copy(binary("driftctl"), &program).unwrap();
    shell("chmod -R u=rwX,go=rX \"$0\"", tools.path());
    shell("chmod -R a=rX \"$0\"", dir.path());
    let driftctl = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(NOBODY).arg(&program).args(args).arg("-d").arg(&data);
        command.output().unwrap()
    };
    let examinations: [&[&str]; 3] = [&["doctor"], &["verify"], &["verify", "--deep", "-t", "t"]];
    for args in examinations {
        let output = driftctl(args);
        assert!(
            !output.status.success() && text(&output).contains("DATABASE_LOCKED"),
            "{args:?}: {}",
            text(&output)
        );
    }
    drop(writer);
    // Not a clean close: HEAD and the log are as a crash leaves them.
    daemon.kill();
    for without_lock in [false, true] {
        if without_lock {
            shell("chmod u+w \"$0\" && rm -f \"$0/LOCK\" && chmod a=rX \"$0\"", &data);
        }
        let before = state(&data);
        for args in examinations {
            let output = driftctl(args);
            assert!(output.status.success(), "{args:?}: {}", text(&output));
        }
        assert_eq!(state(&data), before);
        let repair = driftctl(&["doctor", "--repair"]);
        assert!(!repair.status.success(), "a repair without the right to write: {}", text(&repair));
        assert_eq!(state(&data), before);
    }
    // It finds damage all the same.
    let segment = data.join("tables/t/segments/00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for args in examinations {
        let output = driftctl(args);
        assert_eq!(output.status.code(), Some(6), "{args:?}: {}", text(&output));
        assert!(text(&output).contains("00000001.seg"), "{args:?}: {}", text(&output));
    }
    shell("chmod -R u+rwX \"$0\"", dir.path());
}
