//! Helpers for tests: run a command line in this process and capture its output.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser;

use crate::args::{Cli, Format};
use crate::exit::Outcome;
use crate::render::Output;

/// A writer that keeps its bytes for inspection.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    /// The bytes written so far, as text.
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

/// Runs a command line. Returns its result and its output.
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

/// Runs a command line on a directory, embedded. It must succeed. Returns its output.
pub(crate) async fn embedded(dir: &Path, args: &[&str]) -> String {
    let (outcome, text) = driftctl(&on(dir, args)).await;
    outcome.unwrap_or_else(|failure| panic!("{args:?}: {}", failure.text()));
    text
}

/// Runs a command line on a directory, embedded. It must fail. Returns the exit code and the message.
pub(crate) async fn refused(dir: &Path, args: &[&str]) -> (u8, String) {
    let (outcome, _) = driftctl(&on(dir, args)).await;
    let failure = outcome.unwrap_err();
    (failure.code(), failure.text())
}

fn on<'a>(dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    ["-d", dir.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect()
}
