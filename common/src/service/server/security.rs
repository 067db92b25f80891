//! How a daemon is protected on the network: who may do what.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::service::access::audit::AuditLog;
use crate::service::access::control::AccessControl;
use crate::service::options::SecurityArgs;

/// How a daemon is protected on the network.
#[derive(Debug, Default)]
pub struct Security {
    /// Who may do what.
    pub access: Arc<AccessControl>,
}

impl Security {
    /// Reads what the options name. Needs a tokio runtime.
    pub async fn open(
        options: &SecurityArgs,
        _: SocketAddr,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Security>> {
        let access = AccessControl::open(options.auth_file.clone(), AuditLog::default(), shutdown).await?;
        Ok(Arc::new(Security { access }))
    }
}
