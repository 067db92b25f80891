//! Options of `cert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) const CERT_EXAMPLES: &str = "\
For trying out TLS, and for networks of your own. The keys are files that only you can read; anyone who has ca-key.pem can make
certificates that your daemons accept. Nothing is overwritten.

Examples:
  driftctl cert new ./certs
  driftctl cert new ./certs --host db1.example.org --host 10.0.0.7 --client billing --days 90";

/// Options of `cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: CertCommand,
}

/// What `cert` does.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a CA, a server certificate and a client certificate in a directory, and print the commands that use them
    New(NewCertArgs),
}

/// Options of `cert new`.
#[derive(Debug, Args)]
pub(crate) struct NewCertArgs {
    /// Directory for the files; it is created if it does not exist
    pub(crate) dir: PathBuf,
    /// Name or IP address of a host on which daemons run, besides localhost, 127.0.0.1 and ::1; can be repeated
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Name of the client: the common name in its certificate
    #[arg(long, value_name = "NAME", default_value = "client")]
    pub(crate) client: String,
    /// Days for which the certificates are valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
}
