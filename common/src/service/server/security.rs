//! How a daemon is protected on the network: TLS, and the rule for the addresses on which it may listen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use driftdb::v1;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::metrics::catalog;
use crate::metrics::samples::Samples;
use crate::service::access::audit::AuditLog;
use crate::service::access::caller::Caller;
use crate::service::access::control::AccessControl;
use crate::service::options::SecurityArgs;
use crate::service::server::tls::ServerTls;

/// How a daemon is protected on the network.
#[derive(Debug, Default)]
pub struct Security {
    /// TLS; `None` if connections are in clear text.
    pub tls: Option<Arc<ServerTls>>,
    /// Who may do what.
    pub access: Arc<AccessControl>,
    /// What is not safe, if the operator has chosen that.
    warning: Option<String>,
}

impl Security {
    /// Reads what the options name, and checks that the daemon may listen on an address. Needs a tokio runtime.
    pub async fn open(
        options: &SecurityArgs,
        address: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Security>> {
        let tls = ServerTls::open(options, shutdown).await?;
        let audit = AuditLog::start(&options.audit.options())?;
        let access = AccessControl::open(options.auth_file.clone(), audit, shutdown).await?;
        let has = (tls.is_some(), access.rules().is_some());
        let warning = check_address(address, has, options.insecure_listen)?;
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        Ok(Arc::new(Security { tls, access, warning }))
    }

    /// Writes what waits to be written to the audit log. For the end of a daemon.
    pub async fn close(&self) {
        self.access.audit().close().await;
    }

    /// Reads the files of TLS and the auth file again now. Blocks.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
        self.access.reload();
    }

    /// Reads the metrics.
    pub fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::AUDIT_LOST, self.access.audit().lost());
        let not_after = self.tls.as_ref().map(|tls| tls.not_after());
        if let Some(end) = not_after.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) {
            samples.set(&catalog::CERTIFICATE_EXPIRY, end);
        }
    }

    /// What Status says to a caller.
    pub fn to_wire(&self, caller: &Caller) -> v1::SecurityState {
        let mut state = v1::SecurityState {
            tls: self.tls.is_some(),
            warning: self.warning.clone().unwrap_or_default(),
            authentication: self.access.rules().is_some(),
            ..Default::default()
        };
        if let Some(tls) = &self.tls {
            state.client_certificates = tls.asks_for_certificates();
            state.certificate_not_after = Some(tls.not_after().into());
            (state.handshakes_failed, state.certificates_ended) = tls.counts();
            state.problems.extend(tls.problem());
        }
        state.problems.extend(self.access.problem());
        state.problems.extend(self.access.audit().problem());
        if !caller.is_admin() {
            // They name files.
            state.problems.clear();
        }
        state
    }
}

/// Fails if a daemon must not listen on an address: others than this machine could reach it without TLS or without authentication, and the
/// operator has not asked for that. Returns the warning if they have.
pub fn check_address(
    address: SocketAddr,
    (has_tls, has_auth): (bool, bool),
    is_insecure_allowed: bool,
) -> Result<Option<String>> {
    let lacks = match (has_tls, has_auth) {
        _ if address.ip().to_canonical().is_loopback() => return Ok(None),
        (true, true) => return Ok(None),
        (true, false) => "authentication",
        (false, true) => "TLS",
        (false, false) => "TLS and authentication",
    };
    if is_insecure_allowed {
        let effect = match (has_tls, has_auth) {
            (false, true) => "all data and all tokens travel in clear text",
            (true, _) => {
                "everyone who reaches the address, with a client certificate if --tls-client-ca is set, may read and write everything"
            }
            (false, false) => {
                "everyone who reaches the address may read and write everything, and all data travels in clear text"
            }
        };
        return Ok(Some(format!("listening on {address} without {lacks} (--insecure-listen): {effect}")));
    }
    let message = format!(
        "cannot listen on {address} without {lacks}: others than this machine could reach it; give the daemon --tls-cert, \
         --tls-key and --auth-file, or listen on 127.0.0.1, or use --insecure-listen if only you can reach that network"
    );
    Err(Error::new(Reason::ArgumentInvalid, message))
}

/// The same for the port of the metrics, which has neither TLS nor authentication.
pub fn check_metrics_address(address: SocketAddr, is_insecure_allowed: bool) -> Result<Option<String>> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(None);
    }
    if is_insecure_allowed {
        let warning = format!(
            "serving metrics on {address} (--metrics-insecure-listen): everyone who reaches the address sees how this daemon is used"
        );
        return Ok(Some(warning));
    }
    let message = format!(
        "cannot serve metrics on {address}: the port has neither TLS nor authentication, and others than this machine could reach it; use \
         127.0.0.1, or use --metrics-insecure-listen if only you can reach that network"
    );
    Err(Error::new(Reason::ArgumentInvalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn status_warns_for_as_long_as_an_insecure_daemon_runs() {
        let options = SecurityArgs { insecure_listen: true, ..SecurityArgs::default() };
        // An address for documentation. Nothing listens.
        let address = "192.0.2.1:7401".parse().unwrap();
        let shutdown = CancellationToken::new();
        let state = Security::open(&options, address, &shutdown).await.unwrap().to_wire(&Caller::everyone());
        assert!(state.warning.starts_with("listening on 192.0.2.1:7401 without TLS and"), "{state:?}");
        let loopback = "127.0.0.1:7401".parse().unwrap();
        let state = Security::open(&options, loopback, &shutdown).await.unwrap().to_wire(&Caller::everyone());
        assert_eq!(state, v1::SecurityState::default());
        assert!(Security::open(&SecurityArgs::default(), address, &shutdown).await.is_err());
    }

    #[test]
    fn metrics_are_for_this_machine_unless_the_operator_says_otherwise() {
        for loopback in ["127.0.0.1:0", "[::1]:9"] {
            assert_eq!(check_metrics_address(loopback.parse().unwrap(), false).unwrap(), None);
        }
        let outside = "0.0.0.0:9401".parse().unwrap();
        let error = check_metrics_address(outside, false).unwrap_err();
        assert_eq!(error.reason(), Reason::ArgumentInvalid);
        assert!(check_metrics_address(outside, true).unwrap().unwrap().contains("0.0.0.0:9401"));
    }

    #[test]
    fn only_loopback_needs_neither_tls_nor_authentication() {
        for loopback in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert_eq!(check_address(loopback.parse().unwrap(), (false, false), false).unwrap(), None);
        }
        for address in ["0.0.0.0:0", "192.168.1.1:1", "[::]:0", "[::ffff:10.0.0.1]:0"] {
            let check = |has, allowed| check_address(address.parse().unwrap(), has, allowed);
            assert_eq!(check((true, true), false).unwrap(), None);
            for (has, lacks) in
                [((true, false), "authentication"), ((false, true), "TLS"), ((false, false), "TLS and")]
            {
                let error = check(has, false).unwrap_err();
                assert!(error.message().contains(&format!("without {lacks}")), "{error}");
                let warning = check(has, true).unwrap().unwrap();
                assert!(warning.contains(&format!("without {lacks}")), "{warning}");
            }
        }
    }
}
