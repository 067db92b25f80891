//! What a principal may do with a table.

use std::fmt;

use serde::Deserialize;

/// A role on a table. Each contains those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read its rows, its history and its schema, and watch it.
    Read,
    /// Write rows.
    Write,
    /// Create, alter and drop it, and discard its history.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        })
    }
}
