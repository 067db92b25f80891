//! The rules that a daemon applies now, and the record of what they led to.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::service::access::audit::AuditLog;
use crate::service::access::auth_file;
use crate::service::access::rules::AccessRules;
use crate::service::reloaded_file::{ReloadedFiles, WatchedFile};

/// Who may do what, at a daemon. By default everyone may do everything.
#[derive(Debug, Default)]
pub struct AccessControl {
    /// `None` if the daemon does not ask who calls.
    rules: Option<Arc<ReloadedFiles<AccessRules>>>,
    audit: AuditLog,
}

impl AccessControl {
    /// Reads the auth file, and again when it changes, until `shutdown` is cancelled. Without a file everyone may do everything. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// If the file cannot be read or understood: a daemon must not serve without the rules that it was told to apply.
    pub async fn open(
        file: Option<PathBuf>,
        audit: AuditLog,
        shutdown: &CancellationToken,
    ) -> Result<Arc<AccessControl>> {
        let Some(path) = file else { return Ok(Arc::new(AccessControl { rules: None, audit })) };
        let recorded = audit.clone();
        let opened = tokio::task::spawn_blocking(move || open_file(path, recorded)).await;
        let rules = opened
            .map_err(|e| Error::new(Reason::Internal, format!("reading the auth file failed: {e}")))??;
        rules.follow(shutdown.clone());
        Ok(Arc::new(AccessControl { rules: Some(rules), audit }))
    }

    /// The record of what was allowed and refused.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// The rules; `None` if the daemon does not ask who calls.
    pub fn rules(&self) -> Option<Arc<AccessRules>> {
        self.rules.as_ref().map(|rules| rules.current())
    }

    /// Changes with each version of the rules; `None` if the daemon does not ask who calls.
    pub fn versions(&self) -> Option<watch::Receiver<u64>> {
        self.rules.as_ref().map(|rules| rules.subscribe())
    }

    /// Reads the auth file again now, if there is one. Blocks.
    pub fn reload(&self) {
        if let Some(rules) = &self.rules {
            rules.reload();
        }
    }

    /// Why the newest auth file is not in use, for Status; `None` if it is.
    pub fn problem(&self) -> Option<String> {
        self.rules.as_ref()?.problem()
    }
}

fn open_file(path: PathBuf, audit: AuditLog) -> Result<Arc<ReloadedFiles<AccessRules>>> {
    let (is_first, name) = (AtomicBool::new(true), path.display().to_string());
    ReloadedFiles::open("the auth file", vec![path], move |contents| {
        let rules = contents.and_then(|files| match files {
            [WatchedFile { bytes, .. }] => auth_file::parse_bytes(bytes).map_err(|e| e.context(&name)),
            _ => Err(Error::new(Reason::Internal, "no auth file was read")),
        });
        // Also one that is gone or cannot be read: nobody should be able to keep a revoked token valid unseen.
        if !is_first.swap(false, Ordering::Relaxed) {
            audit.reloaded(&name, rules.as_ref().err());
        }
        rules
    })
}
