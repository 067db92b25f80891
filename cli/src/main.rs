//! The `driftctl` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    driftctl::main()
}
