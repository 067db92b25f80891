//! The commands of docs/security.md, docs/access.md, docs/audit.md and docs/bucket.md run as they are written, from an empty directory.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::binary;

/// What stands before the commands of a page. `driftctl` waits for daemons that have just been started: its exit code is 3 while
/// none answers.
const PRELUDE: &str = r#"set -euo pipefail
end() { kill $(jobs -p) 2>/dev/null || true; wait || true; }
trap end EXIT
driftctl() {
    local code
    for _ in {1..100}; do
        code=0
        command driftctl "$@" || code=$?
        [ "$code" = 3 ] || return "$code"
        sleep 0.2
    done
    return "$code"
}
command -v grpcurl >/dev/null || grpcurl() { echo "skipped: there is no grpcurl here"; }
"#;

/// The blocks of shell commands of a page, in order.
#[expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|rest| rest.split_once("\n```").unwrap().0.to_owned()).collect()
}

/// Whether this user can have a network of his own, in which the default ports are free.
fn can_unshare() -> bool {
    let tried = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Runs the commands of a page in one shell, and then `check`.
fn run(page: &str, check: &str) {
    if !can_unshare() {
        eprintln!("skipped: cannot make a network namespace here");
        return;
    }
    let mut script = PRELUDE.to_owned();
    for (number, block) in blocks(page).iter().enumerate() {
        script += &format!("echo '== block {} of {page}'\n{block}\n", number + 1);
    }
    script += &format!("{check}\necho done\n");
    let dir = tempfile::tempdir().unwrap();
    let programs = binary("driftctl").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("unshare");
    shell.args(["-rn", "bash", "-c", "ip link set lo up && exec bash -c \"$0\"", &script]);
    shell.env("PATH", path).current_dir(dir.path()).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DRIFTDB_")) {
        shell.env_remove(name);
    }
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.ends_with("done\n"), "{page}:\n{printed}\n{complaints}");
}

#[test]
fn the_way_to_mutual_tls_and_tokens_works_as_written() {
    run("docs/security.md", "");
}

#[test]
fn the_way_to_tokens_works_as_written() {
    run("docs/access.md", "");
}

#[test]
fn the_audit_log_is_written_as_documented() {
    run("docs/audit.md", "driftctl status >/dev/null");
}

#[test]
fn the_way_from_an_empty_bucket_to_a_restored_database_works_as_written() {
    // What the page says: the deleted row is there again, and in the clone.
    let check = r#"test "$(driftctl -d ./restored get orders o1)" = '{"id":"o1","status":"paid"}'
test "$(driftctl -d ./restored select orders | wc -l)" = 2
test "$(driftctl -d "$BUCKET-test" select orders | wc -l)" = 1
driftctl backup verify "$BUCKET" --deep"#;
    run("docs/bucket.md", check);
}
