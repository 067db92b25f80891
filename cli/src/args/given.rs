//! Which of the options of every command the user has given, on the command line or by the environment.

use std::collections::HashMap;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// The options that the user has given, by their ids, and where.
#[derive(Debug, Default)]
pub(crate) struct GivenOptions(HashMap<String, ValueSource>);

impl GivenOptions {
    /// The options of a command line. An option of every command may stand before or after the command, or between two words of it.
    pub(crate) fn of(matches: &ArgMatches) -> GivenOptions {
        let (mut found, mut level) = (HashMap::new(), Some(matches));
        while let Some(matches) = level {
            for id in matches.ids() {
                let source = matches.value_source(id.as_str());
                if let Some(source) = source.filter(|source| *source != ValueSource::DefaultValue) {
                    let known = found.entry(id.as_str().to_owned()).or_insert(source);
                    *known = (*known).max(source);
                }
            }
            level = matches.subcommand().map(|(_, inner)| inner);
        }
        GivenOptions(found)
    }

    /// Whether an option was given at all.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Whether an option was given on the command line.
    pub(crate) fn on_command_line(&self, id: &str) -> bool {
        self.0.get(id) == Some(&ValueSource::CommandLine)
    }
}
