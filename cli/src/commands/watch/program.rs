//! A program that is run for each commit, with the commit on its standard input.

use std::ffi::OsString;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::exit::{Failure, Outcome};

/// The variable that holds the commit's number.
const SEQ: &str = "DRIFTDB_SEQ";

/// How long a program may go on where the watch is interrupted.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A program and its arguments.
#[derive(Debug)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
}

impl Program {
    /// The program of a command line, where there is one.
    pub fn new(command: &[OsString]) -> Option<Program> {
        let (name, args) = command.split_first()?;
        Some(Program { name: name.clone(), args: args.to_vec() })
    }

    /// Runs it to its end, which must be a good one.
    pub async fn run(&self, input: &str, seq: Option<u64>) -> Outcome {
        let name = self.name.display();
        let mut command = Command::new(&self.name);
        command.args(&self.args).stdin(Stdio::piped()).kill_on_drop(true).env_remove(SEQ);
        if let Some(seq) = seq {
            command.env(SEQ, seq.to_string());
        }
        let child = command.spawn().map_err(|e| Failure::Program(format!("{name} cannot be run: {e}")))?;
        let mut running = Running(child);
        if let Some(mut stdin) = running.0.stdin.take() {
            // Who does not want to know what is there need not read it.
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
            None => format!("was ended by a {ended}"),
        };
        let at = seq.map_or("rows at the beginning".to_owned(), |seq| format!("commit {seq}"));
        Err(Failure::Program(format!("{name} {how} on {at}; the watch ends, so that nothing is left out")))
    }
}

/// A program under way. Where the watch is interrupted it has a while to end by itself: at a terminal Ctrl-C goes to it
/// too. What is left then is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && began.elapsed() < GRACE {
            thread::sleep(LOOK);
        }
    }
}
