//! The commands of the shell, which start with a backslash.

use std::time::Duration;

use crate::exit::{CliResult, Failure};
use crate::statement;

/// The text that `\?` prints.
pub(crate) const HELP: &str = r"Statements end with ; and can span several lines. BEGIN; … COMMIT; combines several writes into one commit.

  \d [TABLE]          list the tables, or describe one
  \as-of POINT|off    read at a point in time if a statement has no AS OF
  \timing [on|off]    print how long each statement takes
  \x [on|off]         print rows one field a line
  \watch [SECONDS]    repeat the last SELECT until Ctrl-C [default: every 2 seconds]
  \?                  print this help
  \q                  quit (also Ctrl-D)

Points in time: @seq:100, @now, 2026-01-01T00:00:00Z, 2026-01-01, 5 minutes ago, yesterday 17:30.
Ctrl-C clears the current input or interrupts the running statement. Tab completes keywords and tables.
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
    Expanded(Option<bool>),
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
        ("\\d", table) => Ok(ShellCommand::Describe(table.map(str::to_owned))),
        ("\\as-of", Some("off")) => Ok(ShellCommand::AsOf(None)),
        ("\\as-of", Some(point)) => moment(point),
        ("\\as-of", None) => {
            Err(usage("\\as-of needs a point in time, or off; for example: \\as-of @seq:100"))
        }
        ("\\timing", on) => Ok(ShellCommand::Timing(switch(name, on)?)),
        ("\\x", on) => Ok(ShellCommand::Expanded(switch(name, on)?)),
        ("\\watch", None) => Ok(ShellCommand::Watch(WATCH_EVERY)),
        ("\\watch", Some(seconds)) => every(seconds),
        ("\\?" | "\\h" | "\\help" | "help", None) => Ok(ShellCommand::Help),
        ("\\q" | "\\quit" | "quit" | "exit", None) => Ok(ShellCommand::Quit),
        ("\\?" | "\\h" | "\\help" | "\\q" | "\\quit", Some(rest)) => {
            Err(usage(&format!("{name} takes no argument; got {rest:?}")))
        }
        _ => Err(usage(&format!("unknown command {name}; type \\? for help"))),
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
        Some(other) => Err(usage(&format!("{name} takes on or off; got {other:?}"))),
    }
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
            ("\\x on", ShellCommand::Expanded(Some(true))),
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
            ("\\nonsense", "unknown command \\nonsense"),
            ("\\as-of", "needs a point in time"),
            ("\\as-of yesterdya", "yesterdya"),
            ("\\timing maybe", "on or off"),
            ("\\watch 0", "seconds"),
            ("\\watch NaN", "seconds"),
            ("\\watch 1e300", "seconds"),
            ("\\q now", "takes no argument"),
        ] {
            let failure = parse(line).unwrap_err();
            assert!(failure.text().contains(expected), "{line}: {}", failure.text());
        }
    }
}
