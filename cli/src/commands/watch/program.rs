//! The program that `watch` runs for each commit, with the commit on its standard input.

use std::ffi::OsString;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::exit::{CliResult, Failure};

/// The environment variable that contains the seq of the commit.
const SEQ: &str = "DRIFTDB_SEQ";

/// How long the program may run after the watch was interrupted.
const GRACE: Duration = Duration::from_secs(2);
/// How often to check whether the program has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A program and its arguments.
#[derive(Debug)]
pub(crate) struct Program {
    name: OsString,
    args: Vec<OsString>,
}

impl Program {
    /// The program of a command line, or `None` if the command line is empty.
    pub(crate) fn new(command: &[OsString]) -> Option<Program> {
        let (name, args) = command.split_first()?;
        Some(Program { name: name.clone(), args: args.to_vec() })
    }

    /// Runs the program to its end. It must exit with code 0.
    pub(crate) async fn run(&self, input: &str, seq: Option<u64>) -> CliResult {
        let name = self.name.display();
        let mut command = Command::new(&self.name);
        command.args(&self.args).stdin(Stdio::piped()).kill_on_drop(true).env_remove(SEQ);
        if let Some(seq) = seq {
            command.env(SEQ, seq.to_string());
        }
        let child = command.spawn().map_err(|e| Failure::Program(format!("cannot run {name}: {e}")))?;
        let mut running = RunningProgram(child);
        if let Some(mut stdin) = running.0.stdin.take() {
            // The program need not read its input, so a failed write is not an error.
            let _ = stdin.write_all(input.as_bytes()).await;
            let _ = stdin.write_all(b"\n").await;
        }
        let ended = running.0.wait().await;
        let ended = ended.map_err(|e| Failure::Program(format!("cannot wait for {name}: {e}")))?;
        if ended.success() {
            return Ok(());
        }
        let how = match ended.code() {
            Some(code) => format!("failed with exit code {code}"),
            None => format!("was terminated: {ended}"),
        };
        let at = seq.map_or("the initial rows".to_owned(), |seq| format!("commit {seq}"));
        Err(Failure::Program(format!("{name} {how} for {at}; the watch stops, so that no commit is skipped")))
    }
}

/// A running program. If the watch is interrupted, the program has some time to end by itself, because Ctrl-C at a
/// terminal also reaches it. Then it is killed.
struct RunningProgram(Child);

impl Drop for RunningProgram {
    fn drop(&mut self) {
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && began.elapsed() < GRACE {
            thread::sleep(LOOK);
        }
    }
}
