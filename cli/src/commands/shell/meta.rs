//! The shell's own commands, which begin with a backslash.

use std::time::Duration;

use crate::exit::{Failure, Outcome};
use crate::statement;

/// What `\?` prints.
pub const HELP: &str = r"A statement ends with ; and may take several lines. BEGIN; … COMMIT; makes one commit of several writes.

  \d [TABLE]          the tables, or one of them
  \as-of POINT|off    read at a moment: SELECT, EXPLAIN, SHOW TABLES and DESCRIBE without AS OF
  \timing [on|off]    say how long things took
  \x [on|off]         print rows a field a line
  \watch [SECONDS]    repeat the last SELECT until Ctrl-C, every 2 seconds
  \?                  this
  \q                  leave, as Ctrl-D does

Ctrl-C drops what is being typed, or stops what is running. Tab completes keywords and tables.
";

/// How often `\watch` asks where nobody says.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The longest wait of `\watch`, in seconds.
const WATCH_MAX: f64 = 86_400.0;

/// A command.
#[derive(Debug, PartialEq)]
pub enum Meta {
    /// The tables, or one.
    Describe(Option<String>),
    /// The moment of reads that name none.
    AsOf(Option<String>),
    /// Whether to say how long things took; toggled where not told.
    Timing(Option<bool>),
    /// Whether rows go a field a line; toggled where not told.
    Expanded(Option<bool>),
    /// The last SELECT, again and again.
    Watch(Duration),
    /// Says what there is.
    Help,
    /// Leaves.
    Quit,
}

/// Reads a command.
pub fn parse(line: &str) -> Outcome<Meta> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
    match (name, rest) {
        ("\\d", table) => Ok(Meta::Describe(table.map(str::to_owned))),
        ("\\as-of", Some("off")) => Ok(Meta::AsOf(None)),
        ("\\as-of", Some(point)) => moment(point),
        ("\\as-of", None) => Err(usage("\\as-of wants a moment, or off: \\as-of @seq:100")),
        ("\\timing", on) => Ok(Meta::Timing(switch(name, on)?)),
        ("\\x", on) => Ok(Meta::Expanded(switch(name, on)?)),
        ("\\watch", None) => Ok(Meta::Watch(WATCH_EVERY)),
        ("\\watch", Some(seconds)) => every(seconds),
        ("\\?" | "\\h" | "\\help" | "help", None) => Ok(Meta::Help),
        ("\\q" | "\\quit" | "quit" | "exit", None) => Ok(Meta::Quit),
        ("\\?" | "\\h" | "\\help" | "\\q" | "\\quit", Some(rest)) => {
            Err(usage(&format!("{name} takes nothing, and got {rest:?}")))
        }
        _ => Err(usage(&format!("{name} is no command; \\? lists them"))),
    }
}

/// A moment, with or without quotes.
fn moment(text: &str) -> Outcome<Meta> {
    let bare = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(text);
    statement::point(bare)?;
    Ok(Meta::AsOf(Some(bare.to_owned())))
}

fn switch(name: &str, text: Option<&str>) -> Outcome<Option<bool>> {
    match text {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(usage(&format!("{name} takes on or off, and got {other:?}"))),
    }
}

fn every(text: &str) -> Outcome<Meta> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.1..=WATCH_MAX).contains(s));
    let every = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    every.map(Meta::Watch).ok_or_else(|| usage(&format!("\\watch takes seconds from 0.1, and got {text:?}")))
}

fn usage(message: &str) -> Failure {
    Failure::Usage(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read() {
        let some = |text: &str| Some(text.to_owned());
        for (line, expected) in [
            ("\\d", Meta::Describe(None)),
            ("\\d orders;", Meta::Describe(some("orders"))),
            ("\\as-of @seq:3", Meta::AsOf(some("@seq:3"))),
            ("\\as-of  5 minutes ago", Meta::AsOf(some("5 minutes ago"))),
            ("\\as-of \"2026-01-01\"", Meta::AsOf(some("2026-01-01"))),
            ("\\as-of off", Meta::AsOf(None)),
            ("\\timing", Meta::Timing(None)),
            ("\\x on", Meta::Expanded(Some(true))),
            ("\\watch", Meta::Watch(WATCH_EVERY)),
            ("\\watch 0.5", Meta::Watch(Duration::from_millis(500))),
            ("\\?", Meta::Help),
            ("\\q", Meta::Quit),
            ("exit;", Meta::Quit),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
            assert!(!line.starts_with('\\') || HELP.contains(line.split([' ', ';']).next().unwrap()));
        }
    }

    #[test]
    fn what_is_no_command_is_told() {
        for (line, told) in [
            ("\\nonsense", "\\nonsense is no command"),
            ("\\as-of", "wants a moment"),
            ("\\as-of yesterdya", "yesterdya"),
            ("\\timing maybe", "on or off"),
            ("\\watch 0", "seconds"),
            ("\\watch NaN", "seconds"),
            ("\\watch 1e300", "seconds"),
            ("\\q now", "takes nothing"),
        ] {
            let failure = parse(line).unwrap_err();
            assert!(failure.text().contains(told), "{line}: {}", failure.text());
        }
    }
}
