//! The options and their values as a configuration file, with a comment that says where each is from.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};

use super::file_options::{OptionOrigin, is_switch, options, takes_many};
use super::settings::toml_string;

/// The file. Options without a value are comments.
pub(super) fn print(
    command: &Command,
    matches: &ArgMatches,
    file: Option<&Path>,
    origin: impl Fn(&str) -> OptionOrigin,
) -> String {
    let mut text = format!("# The options of {}, and where each value is from.\n", command.get_name());
    let mut heading = None;
    for arg in options(command).filter(|arg| arg.get_long().is_some()) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            text += &format!("\n# {}\n", heading.unwrap_or("Options"));
        }
        text += &line(arg, matches, &origin_text(&origin(arg.get_id().as_str()), arg, file));
    }
    text
}

fn origin_text(origin: &OptionOrigin, arg: &Arg, file: Option<&Path>) -> String {
    match origin {
        OptionOrigin::CommandLine => "the command line".to_owned(),
        OptionOrigin::Environment => {
            format!("the environment: {}", arg.get_env().unwrap_or_default().to_string_lossy())
        }
        OptionOrigin::File(line) => {
            // A name with a line break must not end the comment.
            let name = file.map(|file| file.display().to_string()).unwrap_or_default();
            format!("{}:{line}", name.replace(char::is_control, "?"))
        }
        OptionOrigin::Default => "default".to_owned(),
    }
}

fn line(arg: &Arg, matches: &ArgMatches, origin: &str) -> String {
    let (long, id) = (arg.get_long().unwrap_or_default(), arg.get_id().as_str());
    if is_switch(arg) {
        return format!("{long} = {}  # {origin}\n", matches.get_flag(id));
    }
    let values: Vec<String> =
        matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
    // What clap must not show in a help text is secret here, too.
    if arg.is_hide_env_values_set() && !values.is_empty() {
        return format!("# {long} is set, and not shown  # {origin}\n");
    }
    match values.as_slice() {
        [] => format!("# {long} is not set\n"),
        [value] if !takes_many(arg) => format!("{long} = {}  # {origin}\n", toml_value(value)),
        values => {
            let values: Vec<String> = values.iter().map(|value| toml_value(value)).collect();
            format!("{long} = [{}]  # {origin}\n", values.join(", "))
        }
    }
}

/// A value: a number if it is read as the same text again.
fn toml_value(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => text.to_owned(),
        _ => toml_string(text),
    }
}
