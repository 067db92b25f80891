//! Options of `context`.

use clap::{Args, Subcommand};

pub(super) const CONTEXT_EXAMPLES: &str = "\
A context is a database by its name: the addresses of its daemons or its directory, TLS files, a token file, a time zone and
a format of the output. `add` takes them from the options of every command. They are in ~/.config/driftctl/config.toml, or in
driftctl/config.toml of XDG_CONFIG_HOME.

An option on the command line comes first, then its environment variable, then the context. --context NAME uses another
context once, and --context '' uses none. The shell's prompt shows which one is in use. Commands that create, start or load
a database (init, dev, bench, doctor) use a context only if --context names it.

The file must not be one that others may change, nor the token file and the private key ones that others may read.

Examples:
  driftctl context add prod --writer https://w.example:7401 --reader https://r.example:7402 --tls-ca ca.pem --token-file t
  driftctl context add copy --data ./mydata
  driftctl context use prod
  driftctl --context copy status";

/// Options of `context`.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: ContextCommand,
}

/// What `context` does.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Print the names of all contexts, and which is current
    List,
    /// Print what a context has
    Show {
        /// Name of the context [default: the one in use]
        name: Option<String>,
    },
    /// Make a context the current one
    Use(UseContextArgs),
    /// Add a context with the options of this command line
    Add(AddContextArgs),
    /// Remove a context
    Remove {
        /// Name of the context
        name: String,
    },
}

/// Options of `context use`.
#[derive(Debug, Args)]
pub(crate) struct UseContextArgs {
    /// Name of the context
    #[arg(required_unless_present = "none")]
    pub(crate) name: Option<String>,
    /// Use no context
    #[arg(long, conflicts_with = "name")]
    pub(crate) none: bool,
}

/// Options of `context add`.
#[derive(Debug, Args)]
pub(crate) struct AddContextArgs {
    /// Name of the context: letters, digits, and `_`, `-` or `.`
    pub(crate) name: String,
    /// Replace a context of this name
    #[arg(long)]
    pub(crate) replace: bool,
}
