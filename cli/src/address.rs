//! The address of one daemon, and how to connect to it.

use driftdb::client::{ClientOptions, ClientTls, connect_with};
use driftdb_common::error::Result;
use tonic::transport::Channel;

use crate::errors::to_error;
use crate::token::{check_address, token};

/// The address of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct DaemonAddress {
    url: String,
    /// For `https://` addresses, and for others whose daemon has TLS.
    tls: Option<ClientTls>,
}

impl DaemonAddress {
    /// The daemon at an address.
    pub(crate) fn new(url: impl Into<String>, tls: Option<ClientTls>) -> DaemonAddress {
        DaemonAddress { url: url.into(), tls }
    }

    /// The address as text.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// TLS, if the user has named its files.
    pub(crate) fn tls(&self) -> Option<ClientTls> {
        self.tls.clone()
    }

    /// The options of a client of this daemon.
    pub(crate) fn options(&self) -> ClientOptions {
        ClientOptions { tls: self.tls(), token: token(), ..ClientOptions::default() }
    }

    /// Connects to the daemon. Fails if the token of this process must not be sent there.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        check_address(&self.url, self.tls.is_some())?;
        connect_with(&self.url, self.tls.as_ref()).await.map_err(|s| to_error(&s))
    }
}
