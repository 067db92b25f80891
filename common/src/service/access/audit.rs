//! The audit log: refused calls, failed authentication, administrative actions and reloads, as lines of the daemon's log.

use std::net::IpAddr;

use crate::error::Error;
use crate::service::access::audit_options::AuditedCalls;

/// The audit log of a daemon.
#[derive(Debug, Clone, Default)]
pub struct AuditLog;

/// A call, as the audit log describes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditedCall<'a> {
    /// The name of the principal; `None` without authentication.
    pub principal: Option<&'a str>,
    /// The client's address; `None` for a caller inside this process.
    pub peer: Option<IpAddr>,
    /// The method, such as `WriterService/Apply`.
    pub method: &'a str,
    /// What it does: `read`, `write`, or an administrative action such as `compact`.
    pub action: &'a str,
    /// The tables that it names.
    pub tables: &'a [&'a str],
}

impl AuditLog {
    /// Whether writes are recorded, or reads.
    pub fn records(&self, _: AuditedCalls) -> bool {
        false
    }

    /// A call that its principal may not make.
    pub fn denied(&self, call: &AuditedCall<'_>, error: &Error) {
        tracing::debug!(?call, %error, "denied a call");
    }

    /// A call whose caller could not prove who it is.
    pub fn authentication_failed(&self, call: &AuditedCall<'_>, error: &Error) {
        tracing::debug!(?call, %error, "refused a call without authentication");
    }

    /// An administrative action that was allowed.
    pub fn admin(&self, call: &AuditedCall<'_>) {
        tracing::debug!(?call, "allowed an administrative action");
    }

    /// The file of principals was read again: it took effect, or `error` says why not.
    pub fn reloaded(&self, file: &str, error: Option<&Error>) {
        tracing::debug!(file, ?error, "read the principals again");
    }

    /// A write or a read that was allowed.
    pub fn call(&self, _: AuditedCalls, call: &AuditedCall<'_>) {
        tracing::debug!(?call, "allowed a call");
    }
}
