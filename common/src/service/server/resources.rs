//! What a server has for its clients: memory, and how much of everything one client may take.

use std::sync::Arc;

use crate::memory::MemoryBudget;
use crate::service::server::limit_options::ServerLimits;

/// What a server may give its clients.
#[derive(Debug, Clone)]
pub struct ServerResources {
    /// The memory of requests and answers.
    pub memory: Arc<MemoryBudget>,
    /// What one client may take.
    pub limits: ServerLimits,
}
