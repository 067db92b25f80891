//! The options for connections with TLS. Every command takes them.

use std::path::PathBuf;

use clap::Args;
use driftdb::client::ClientTls;

/// The options for connections with TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct TlsArgs {
    /// Certificates of the CAs to trust, in PEM, for daemons with TLS; addresses without a scheme are then https://
    #[arg(long, global = true, value_name = "FILE", env = "DRIFTDB_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Your certificate, in PEM, for daemons that ask for one
    #[arg(long, global = true, value_name = "FILE", env = "DRIFTDB_TLS_CLIENT_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of your certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "DRIFTDB_TLS_CLIENT_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Name that the certificates of the daemons must have [default: the host of the address]
    #[arg(long, global = true, value_name = "NAME", env = "DRIFTDB_TLS_SERVER_NAME")]
    pub(crate) tls_server_name: Option<String>,
}

impl TlsArgs {
    /// Fails with a message if an option is missing that another one needs. clap cannot check this for options that may stand before or after
    /// the command.
    pub(crate) fn check(&self) -> Result<(), String> {
        let TlsArgs { tls_ca, tls_cert, tls_key, tls_server_name } = self;
        if tls_cert.is_some() != tls_key.is_some() {
            return Err("--tls-cert and --tls-key (DRIFTDB_TLS_CLIENT_CERT and DRIFTDB_TLS_CLIENT_KEY) need each other".to_owned());
        }
        if tls_ca.is_none() && (tls_cert.is_some() || tls_server_name.is_some()) {
            return Err(
                "--tls-cert and --tls-server-name need --tls-ca: without it no daemon is trusted".to_owned()
            );
        }
        Ok(())
    }

    /// TLS of the client; `None` without --tls-ca.
    pub(crate) fn client(&self) -> Option<ClientTls> {
        let mut tls = ClientTls::new(self.tls_ca.clone()?);
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.with_identity(certificate, key);
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.with_server_name(name);
        }
        Some(tls)
    }
}
