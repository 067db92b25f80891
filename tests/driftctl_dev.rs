//! `driftctl dev`: the commands that it prints work at once, exactly as they are printed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::harness::binary;

/// A running `driftctl dev`. Dropping it kills the process.
struct Dev {
    child: Child,
    greeting: Vec<String>,
}

impl Dev {
    fn start(data: &Path) -> Dev {
        let mut command = Command::new(binary("driftctl"));
        command.args(["dev", "--listen", "127.0.0.1:0", "--reader-listen", "127.0.0.1:0", "-d"]).arg(data);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let greeting =
            lines.map(Result::unwrap).take_while(|line| !line.starts_with("Press Ctrl-C")).collect();
        Dev { child, greeting }
    }

    /// The commands that the greeting shows.
    fn commands(&self) -> Vec<&str> {
        self.greeting.iter().filter_map(|line| line.strip_prefix("  ")).collect()
    }

    fn interrupt(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command as a user would who has driftctl on the PATH.
fn run(command: &str) -> Output {
    let driftctl = binary("driftctl");
    let directory = driftctl.parent().unwrap().display().to_string();
    let path = format!("{directory}:{}", std::env::var("PATH").unwrap());
    Command::new("sh").args(["-c", command]).env("PATH", path).output().unwrap()
}

#[test]
fn the_commands_that_dev_prints_work_in_a_new_in_an_old_and_in_a_compacted_database() {
    let dir = tempfile::tempdir().unwrap();
    for found in ["no tables yet", "1 table (orders), seq 3"] {
        let dev = Dev::start(dir.path());
        assert!(dev.greeting.iter().any(|line| line.ends_with(found)), "{:?}", dev.greeting);
        assert_eq!(dev.commands().len(), 3, "{:?}", dev.greeting);
        for command in dev.commands() {
            let output = run(command);
            assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
        }
        let last = run(dev.commands().last().unwrap());
        assert!(String::from_utf8_lossy(&last.stdout).contains("paid"), "{last:?}");
        dev.interrupt();
    }
    let compact = format!("driftctl -d {} compact -t orders --yes", dir.path().display());
    let compacted = run(&compact);
    assert!(compacted.status.success(), "{compacted:?}");
    let dev = Dev::start(dir.path());
    for command in dev.commands() {
        let output = run(command);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    dev.interrupt();
}
