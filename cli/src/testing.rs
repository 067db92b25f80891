//! What tests share: command lines run in this process, their output caught.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;

use crate::args::{Cli, Format};
use crate::exit::Outcome;
use crate::render::Output;

/// A writer whose bytes can be looked at.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command line: how it ended, and what it printed.
pub(crate) async fn driftctl(args: &[&str]) -> (Outcome, String) {
    let cli = Cli::try_parse_from(["driftctl"].iter().chain(args)).unwrap();
    let sink = Sink::default();
    let mut output = Output::new(Box::new(sink.clone()), cli.global.output.unwrap_or(Format::Jsonl));
    let outcome = crate::dispatch(cli, &mut output).await;
    let outcome = match outcome {
        Ok(()) => output.finish(),
        Err(failure) => output.end_of_result().and(Err(failure)),
    };
    (outcome, sink.text())
}

/// Runs a command line on a directory, embedded; it must succeed.
pub(crate) async fn embedded(dir: &Path, args: &[&str]) -> String {
    let (outcome, text) = driftctl(&on(dir, args)).await;
    outcome.unwrap_or_else(|failure| panic!("{args:?}: {}", failure.text()));
    text
}

/// The same where it must fail: the exit code, and what is told.
pub(crate) async fn refused(dir: &Path, args: &[&str]) -> (u8, String) {
    let (outcome, _) = driftctl(&on(dir, args)).await;
    let failure = outcome.unwrap_err();
    (failure.code(), failure.text())
}

fn on<'a>(dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    ["-d", dir.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect()
}
