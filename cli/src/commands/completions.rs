//! `completions`: prints a completion script for a shell.

use crate::args::{self, CompletionsArgs};
use crate::exit::CliResult;
use crate::render::Printer;

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, out: &mut Printer) -> CliResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "driftctl", &mut script);
    out.print_bytes(&script)
}
