//! The commands of the shell, which start with a backslash.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::{CliResult, Failure};
use crate::render::VerticalMode;
use crate::statement;

/// The text that `\?` prints.
pub(crate) const HELP: &str = r"Statements end with ; and can span several lines. BEGIN; … COMMIT; combines several writes into one commit.

  \d [TABLE]          list the tables, or describe one
  \dt                 list the tables
  \as-of POINT|off    read at a point in time if a statement has no AS OF
  \i FILE             run the statements of a file
  \o [FILE]           append results to a file; without FILE, print them again
  \e [FILE]           edit the last statement, or a file, with EDITOR and run it
  \x [on|off|auto]    print rows one field a line; auto: if they do not fit
  \pager [on|off]     show long results with the program that PAGER names
  \timing [on|off]    print how long each statement takes
  \watch [SECONDS]    repeat the last SELECT until Ctrl-C [default: every 2 seconds]
  \?                  print this help
  \q                  quit (also Ctrl-D)

Points in time: @seq:100, @now, 2026-01-01T00:00:00Z, 2026-01-01, 5 minutes ago, yesterday 17:30.
Ctrl-C clears the current input or interrupts the running statement. Tab completes keywords, tables, columns
and points in time. The history of the lines is in ~/.local/state/driftctl/history.
";

/// The default interval of `\watch`.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The longest interval of `\watch`, in seconds.
const WATCH_MAX: f64 = 86_400.0;

/// A command.
#[derive(Debug, PartialEq)]
pub(crate) enum ShellCommand {
    /// List the tables, or describe one.
    Describe(Option<String>),
    /// Set the point in time of reads without an `AS OF`.
    AsOf(Option<String>),
    /// Print how long statements take; toggle if `None`.
    Timing(Option<bool>),
    /// Print rows one field a line; toggle if `None`.
    Expanded(Option<VerticalMode>),
    /// Use a pager; toggle if `None`.
    Pager(Option<bool>),
    /// Run the statements of a file.
    Include(PathBuf),
    /// Append results to a file, or print them again.
    Output(Option<PathBuf>),
    /// Edit the last statement, or a file, and run it.
    Edit(Option<PathBuf>),
    /// Repeat the last SELECT.
    Watch(Duration),
    /// Print the help.
    Help,
    /// Quit the shell.
    Quit,
}

/// Parses a command.
pub(crate) fn parse(line: &str) -> CliResult<ShellCommand> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
    match (name, rest) {
        ("\\d" | "\\dt" | "\\d+" | "\\dt+", table) => Ok(ShellCommand::Describe(table.map(str::to_owned))),
        ("\\as-of", Some("off")) => Ok(ShellCommand::AsOf(None)),
        ("\\as-of", Some(point)) => moment(point),
        ("\\as-of", None) => Err(usage(
            "\\as-of: missing required argument: a point in time, or off; for example \\as-of @seq:100",
        )),
        ("\\timing", on) => Ok(ShellCommand::Timing(switch(name, on)?)),
        ("\\pager", on) => Ok(ShellCommand::Pager(switch(name, on)?)),
        ("\\x", Some("auto")) => Ok(ShellCommand::Expanded(Some(VerticalMode::Auto))),
        ("\\x", on) => {
            let on = switch(name, on).map_err(|_| unrecognized(name, on, "on, off or auto"))?;
            let mode = on.map(|on| if on { VerticalMode::On } else { VerticalMode::Off });
            Ok(ShellCommand::Expanded(mode))
        }
        ("\\i" | "\\include", Some(file)) => Ok(ShellCommand::Include(path(file))),
        ("\\i" | "\\include", None) => Err(usage(&format!("{name}: missing required argument: a file"))),
        ("\\o" | "\\out", file) => Ok(ShellCommand::Output(file.map(path))),
        ("\\e" | "\\edit", file) => Ok(ShellCommand::Edit(file.map(path))),
        ("\\watch", None) => Ok(ShellCommand::Watch(WATCH_EVERY)),
        ("\\watch", Some(seconds)) => every(seconds),
        ("\\?" | "\\h" | "\\help" | "help", None) => Ok(ShellCommand::Help),
        ("\\q" | "\\quit" | "quit" | "exit", None) => Ok(ShellCommand::Quit),
        ("\\?" | "\\h" | "\\help" | "\\q" | "\\quit", Some(rest)) => {
            Err(usage(&format!("{name}: extra argument {rest:?}; it takes none")))
        }
        _ => {
            let instead = elsewhere(name).map(|what| format!(": {what}")).unwrap_or_default();
            Err(usage(&format!("invalid command {name}{instead}; try \\? for help")))
        }
    }
}

/// What does here what a command of psql does there.
fn elsewhere(name: &str) -> Option<&'static str> {
    Some(match name {
        "\\l" | "\\list" | "\\c" | "\\connect" => {
            "a daemon serves one database; start driftctl with --writer and --reader, or with -d DIR"
        }
        "\\copy" => "load files with `driftctl ingest`",
        "\\di" | "\\ds" | "\\dv" => "\\d TABLE shows the indexes of a table",
        "\\g" | "\\gx" => "end a statement with ;",
        "\\r" => "Ctrl-C clears the current input",
        "\\w" | "\\s" => "the history of the lines is in ~/.local/state/driftctl/history",
        "\\pset" | "\\a" | "\\t" | "\\H" => "choose a format with -o when driftctl starts, or \\x",
        "\\!" => "run commands in another terminal",
        _ => return None,
    })
}

/// A path, with or without quotes; `~` is the home directory.
fn path(text: &str) -> PathBuf {
    let bare = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(text);
    match (bare.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(bare),
    }
}

/// A point in time, with or without quotes.
fn moment(text: &str) -> CliResult<ShellCommand> {
    let bare = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(text);
    statement::check_point(bare)?;
    Ok(ShellCommand::AsOf(Some(bare.to_owned())))
}

fn switch(name: &str, text: Option<&str>) -> CliResult<Option<bool>> {
    match text {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(_) => Err(unrecognized(name, text, "on or off")),
    }
}

fn unrecognized(name: &str, value: Option<&str>, takes: &str) -> Failure {
    let value = value.unwrap_or_default();
    usage(&format!("unrecognized value {value:?} for {name}: it takes {takes}"))
}

fn every(text: &str) -> CliResult<ShellCommand> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.1..=WATCH_MAX).contains(s));
    let every = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    every
        .map(ShellCommand::Watch)
        .ok_or_else(|| usage(&format!("\\watch takes 0.1 to 86400 seconds; got {text:?}")))
}

fn usage(message: &str) -> Failure {
    Failure::Usage(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_parsed() {
        let some = |text: &str| Some(text.to_owned());
        for (line, expected) in [
            ("\\d", ShellCommand::Describe(None)),
            ("\\d orders;", ShellCommand::Describe(some("orders"))),
            ("\\as-of @seq:3", ShellCommand::AsOf(some("@seq:3"))),
            ("\\as-of  5 minutes ago", ShellCommand::AsOf(some("5 minutes ago"))),
            ("\\as-of \"2026-01-01\"", ShellCommand::AsOf(some("2026-01-01"))),
            ("\\as-of off", ShellCommand::AsOf(None)),
            ("\\timing", ShellCommand::Timing(None)),
            ("\\x on", ShellCommand::Expanded(Some(VerticalMode::On))),
            ("\\x auto", ShellCommand::Expanded(Some(VerticalMode::Auto))),
            ("\\dt", ShellCommand::Describe(None)),
            ("\\i a b.dql;", ShellCommand::Include("a b.dql".into())),
            ("\\o 'x'", ShellCommand::Output(Some("x".into()))),
            ("\\o", ShellCommand::Output(None)),
            ("\\e", ShellCommand::Edit(None)),
            ("\\pager off", ShellCommand::Pager(Some(false))),
            ("\\watch", ShellCommand::Watch(WATCH_EVERY)),
            ("\\watch 0.5", ShellCommand::Watch(Duration::from_millis(500))),
            ("\\?", ShellCommand::Help),
            ("\\q", ShellCommand::Quit),
            ("exit;", ShellCommand::Quit),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
            assert!(!line.starts_with('\\') || HELP.contains(line.split([' ', ';']).next().unwrap()));
        }
    }

    #[test]
    fn an_unknown_command_is_an_error() {
        for (line, expected) in [
            ("\\nonsense", "invalid command \\nonsense; try \\? for help"),
            ("\\l", "invalid command \\l: a daemon serves one database"),
            ("\\i", "\\i: missing required argument"),
            ("\\x maybe", "unrecognized value \"maybe\" for \\x: it takes on, off or auto"),
            ("\\as-of", "missing required argument"),
            ("\\as-of yesterdya", "yesterdya"),
            ("\\timing maybe", "on or off"),
            ("\\watch 0", "seconds"),
            ("\\watch NaN", "seconds"),
            ("\\watch 1e300", "seconds"),
            ("\\q now", "extra argument \"now\""),
        ] {
            let failure = parse(line).unwrap_err();
            assert!(failure.text().contains(expected), "{line}: {}", failure.text());
        }
    }
}
