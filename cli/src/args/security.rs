//! Options of the commands about tokens and the auth file.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) const TOKEN_EXAMPLES: &str = "\
The daemons know only the SHA-256 of a token: a token that is lost cannot be recovered. A principal can have several tokens: to
renew one, add the new one to the auth file, give it to the client, then remove the old one.

Examples:
  driftctl token new billing --write 'orders,invoice_*' --read '*' --out billing.token >> auth.toml
  driftctl token new ops --database-admin --expires 90d --out ops.token >> auth.toml
  DRIFTDB_TOKEN_FILE=billing.token driftctl status";

pub(super) const AUTH_EXAMPLES: &str = "\
Exit code 1 if a daemon would refuse the file.

Examples:
  driftctl auth check auth.toml
  driftctl auth check auth.toml --table orders";

/// Options of `token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What `token` does.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, and print it once with the lines for the auth file
    New(NewTokenArgs),
}

/// Options of `token new`.
#[derive(Debug, Args)]
pub(crate) struct NewTokenArgs {
    /// Name of the principal
    pub(crate) name: String,
    /// Write the token to this new file, which only you can read, and print only the lines for the auth file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// When the token ends: a time, or a span such as 90d or 1y [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    pub(crate) expires: Option<jiff::Timestamp>,
    /// Tables that the principal may read; * stands for any characters
    #[arg(long, value_name = "TABLE,…", value_delimiter = ',')]
    pub(crate) read: Vec<String>,
    /// Tables that the principal may write and read
    #[arg(long, value_name = "TABLE,…", value_delimiter = ',')]
    pub(crate) write: Vec<String>,
    /// Tables that the principal may also create, change, compact and drop
    #[arg(long, value_name = "TABLE,…", value_delimiter = ',')]
    pub(crate) admin: Vec<String>,
    /// Let the principal do everything, with all tables and with the database
    #[arg(long)]
    pub(crate) database_admin: bool,
}

/// Parses a time, or a span of time from now on.
fn parse_expiry(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let span = text.parse::<jiff::Span>().ok().filter(|span| span.is_positive());
    let until = span.and_then(|span| jiff::Zoned::now().checked_add(span).ok());
    let until = until.ok_or("write a time such as 2027-01-31T00:00:00Z, or a span such as 90d")?;
    // A whole second is enough, and easier to read.
    jiff::Timestamp::from_second(until.timestamp().as_second()).map_err(|e| e.to_string())
}

/// Options of `auth`.
#[derive(Debug, Args)]
pub(crate) struct AuthArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: AuthCommand,
}

/// What `auth` does.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Check an auth file, and print who may do what
    Check {
        /// File to check
        file: PathBuf,
        /// Print only who may do what with this table
        #[arg(long, value_name = "TABLE")]
        table: Option<String>,
    },
}
