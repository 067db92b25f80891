//! `completions`: prints a completion script for a shell.

use crate::args::{self, Completions};
use crate::exit::Outcome;
use crate::render::Output;

/// Prints the script.
pub fn run(args: &Completions, out: &mut Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "driftctl", &mut script);
    out.bytes(&script)
}
