//! The options of a command line that a file can contain, and what kinds of values they take.

use clap::{Arg, ArgAction, Command};

/// The ids of the options that a file cannot contain.
const NOT_IN_FILE: [&str; 5] = ["config", "print_config", "man", "help", "version"];

/// Where an option's value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OptionOrigin {
    CommandLine,
    Environment,
    /// The line of the file.
    File(usize),
    Default,
}

/// The options that a file can contain.
pub(super) fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NOT_IN_FILE.contains(&arg.get_id().as_str()))
}

/// Whether an option is a switch, which takes no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// Whether an option can have several values.
pub(super) fn takes_many(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}
