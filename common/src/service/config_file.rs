//! A daemon's options from its command line, its environment and a file: the first of these that has an option decides.
//!
//! The file has a key for each long option. Nothing lists the options a second time: what a key may be, and which values it takes, is what
//! clap knows of the command line, so an option that is added tomorrow is in the file, too. A value of the file becomes an argument in front
//! of those that the user has given, unless the command line or the environment has the option; then clap parses the whole. So the rules
//! between options (`requires`, `conflicts_with`) hold wherever the values are from.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Parser};

mod file_options;
mod printout;
mod settings;

use crate::service::manual_page::manual_page;
use file_options::{OptionOrigin, is_switch, options, takes_many};
use settings::{Setting, parse_settings, read_text};

pub use settings::{line_of, toml_string};

/// The options about the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration file")]
pub struct ConfigArgs {
    /// File with options, in TOML: a key for each long option, such as `listen = "127.0.0.1:7501"`
    ///
    /// An option on the command line comes first, then its environment variable, then the file, then the default. A key that is no
    /// option, or a value that the option does not take, is an error. `--print-config` prints such a file.
    #[arg(long, env = "DRIFTDB_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every option with its value and where that is from, as a configuration file, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Print the manual page, and exit
    #[arg(long)]
    pub man: bool,
}

/// The command line of a program, with the options about the file.
pub fn command<A: Parser>() -> Command {
    let command = A::command();
    let (about, long_about) = (command.get_about().cloned(), command.get_long_about().cloned());
    // Adding options replaces what the program is about.
    let command = ConfigArgs::augment_args(command);
    let command = about.into_iter().fold(command, Command::about);
    long_about.into_iter().fold(command, Command::long_about)
}

/// Parses the options of this process. If they are invalid, or ask for help or for the values, prints that and exits.
pub fn parse<A: Parser>() -> A {
    let has_variable = |name: &OsStr| std::env::var_os(name).is_some();
    let parsed = try_parse::<A>(std::env::args_os().collect(), has_variable, read_text);
    match parsed.unwrap_or_else(|error| error.exit()) {
        ParsedOptions::Run(options) => options,
        ParsedOptions::Print(text) => {
            print!("{text}");
            std::process::exit(0)
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
enum ParsedOptions<A> {
    /// To run with these options.
    Run(A),
    /// To print this.
    Print(String),
}

/// Parses a command line. `has_variable` says whether the environment has a variable, and `read` reads the file.
fn try_parse<A: Parser>(
    arguments: Vec<OsString>,
    has_variable: impl Fn(&OsStr) -> bool,
    read: impl Fn(&Path) -> crate::error::Result<String>,
) -> Result<ParsedOptions<A>, clap::Error> {
    let mut command = command::<A>();
    // Adds --help and --version, which a file cannot contain.
    command.build();
    // What is missing or wrong is reported below, when everything is known.
    let given = command.clone().ignore_errors(true).try_get_matches_from(&arguments)?;
    // Also if something else is wrong, so that no value of a switch may be missing yet.
    if given.value_source("man") == Some(ValueSource::CommandLine) {
        let page =
            manual_page(&command).map_err(|e| invalid(&format!("cannot write the manual page: {e}")))?;
        return Ok(ParsedOptions::Print(String::from_utf8_lossy(&page.1).into_owned()));
    }
    let file = given.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    let settings = match &file {
        Some(path) => read(path)
            .and_then(|text| parse_settings(path, &text))
            .and_then(|settings| with_options(&command, path, settings)),
        None => Ok(Vec::new()),
    };
    let settings = settings.map_err(|e| invalid(e.message()))?;
    let is_set = |arg: &Arg| {
        let is_given = given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        is_given || arg.get_env().is_some_and(&has_variable)
    };
    let mut lines = HashMap::new();
    let mut whole: Vec<OsString> = arguments.first().cloned().into_iter().collect();
    for (arg, setting) in settings {
        if !is_set(&arg) {
            lines.insert(arg.get_id().as_str().to_owned(), setting.line);
            whole.extend(setting.arguments(&arg).into_iter().map(OsString::from));
        }
    }
    whole.extend(arguments.into_iter().skip(1));
    let matches = command.clone().try_get_matches_from(whole)?;
    if matches.get_flag("print_config") {
        let text = printout::print(&command, &matches, file.as_deref(), |id| origin(&matches, &lines, id));
        return Ok(ParsedOptions::Print(text));
    }
    A::from_arg_matches(&matches).map(ParsedOptions::Run)
}

/// Where the value of an option is from. Values of the file are arguments, so it is asked first.
fn origin(matches: &ArgMatches, lines: &HashMap<String, usize>, id: &str) -> OptionOrigin {
    match (lines.get(id), matches.value_source(id)) {
        (Some(line), _) => OptionOrigin::File(*line),
        (None, Some(ValueSource::CommandLine)) => OptionOrigin::CommandLine,
        (None, Some(ValueSource::EnvVariable)) => OptionOrigin::Environment,
        (None, _) => OptionOrigin::Default,
    }
}

/// Each setting with its option. Fails if there is none of its name, or the option does not take its value.
fn with_options(
    command: &Command,
    path: &Path,
    settings: Vec<Setting>,
) -> crate::error::Result<Vec<(Arg, Setting)>> {
    let mut found = Vec::with_capacity(settings.len());
    for setting in settings {
        let arg = options(command).find(|arg| arg.get_long() == Some(setting.key.as_str()));
        let Some(arg) = arg else {
            let is_own = command.get_arguments().any(|arg| arg.get_long() == Some(setting.key.as_str()));
            let names: Vec<&str> = options(command).filter_map(Arg::get_long).collect();
            return Err(setting.unknown(path, is_own, &names));
        };
        check_value(arg, &setting).map_err(|why| setting.refused(path, &why))?;
        found.push((arg.clone(), setting));
    }
    Ok(found)
}

/// Parses a setting alone, with the parser of its option, so that an error can name its line. Fails with what is wrong with it.
fn check_value(arg: &Arg, setting: &Setting) -> Result<(), String> {
    setting.check_kind(is_switch(arg), takes_many(arg))?;
    if is_switch(arg) {
        return Ok(());
    }
    let mut alone = Arg::new("value").long("value").action(arg.get_action().clone());
    alone = alone.value_parser(arg.get_value_parser().clone());
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("file").no_binary_name(true).disable_help_flag(true).arg(alone);
    let arguments = setting.texts().map(|text| format!("--value={text}"));
    let Err(error) = command.try_get_matches_from(arguments) else { return Ok(()) };
    if let Some(source) = std::error::Error::source(&error) {
        return Err(source.to_string());
    }
    let possible = arg.get_possible_values();
    let names: Vec<&str> = possible.iter().map(clap::builder::PossibleValue::get_name).collect();
    if names.is_empty() {
        // The first line says what is wrong; the rest is about command lines.
        let text = error.to_string();
        return Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned());
    }
    Err(format!("possible values are {}", names.join(", ")))
}

fn invalid(message: &str) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{message}\n"))
}

#[cfg(test)]
mod tests;
