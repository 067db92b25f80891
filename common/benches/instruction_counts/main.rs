//! Counts the instructions of the functions that most of DriftDB's time goes to, with valgrind's callgrind.
//!
//! `make bench-counts` runs it. Times differ by a third from one run to the next on a shared machine; the number of instructions of
//! an operation differs by a percent, because hash maps have random keys. Each case runs twice under callgrind, with
//! different numbers of operations: the difference is what the operations cost, without what it takes to prepare them.

#![expect(clippy::expect_used, reason = "a case that fails ends the program with its cause")]

mod cases;
mod store;

use std::process::Command;

use cases::{CASES, Case};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [case, operations] if case.starts_with("run:") => {
            let named =
                CASES.iter().find(|known| case == &format!("run:{}", known.name)).expect("a known case");
            (named.run)(operations.parse().expect("a number of operations"));
        }
        filters => print_counts(filters),
    }
}

/// Prints a table of the cases whose names contain one of some words; of all cases if there is no word.
fn print_counts(filters: &[String]) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instruction counts: skipped, valgrind is not installed");
        return;
    }
    // Cargo passes `--bench`.
    let words: Vec<&String> = filters.iter().filter(|word| !word.starts_with('-')).collect();
    println!("{:>12}  operation", "instructions");
    for Case { name, what, operations, .. } in CASES {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let [once, twice] = [operations, 2 * operations].map(|operations| instructions(name, operations));
        let each = twice.saturating_sub(once) / u64::from(operations);
        println!("{each:>12}  {name}: {what}");
    }
}

/// The instructions of a run of a case.
fn instructions(case: &str, operations: u32) -> u64 {
    let program = std::env::current_exe().expect("the path of this program");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let output = valgrind.arg(program).args([format!("run:{case}"), operations.to_string()]).output();
    let output = output.expect("valgrind runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {report}");
    let collected = report.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.expect("callgrind reports what it has collected");
    count.trim().parse().expect("a number of instructions")
}
