//! The one check of what a principal may do, with the tables that its request resolves to.
//!
//! A table on which the caller has no role does not exist for it. Whether it exists for others is not even looked up, so that
//! neither the answer nor its timing can tell.

use std::collections::HashSet;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::service::access::audit_options::AuditedCalls;
use crate::service::access::caller::Caller;
use crate::service::access::role::Role;
use crate::service::status::clip;

/// What a request does with tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessAction {
    /// Read rows, history, or the schema. A condition that must hold reads, too.
    Read,
    /// Write rows.
    Write,
    /// Create a table.
    Create,
    /// Change or drop a table, take a snapshot, discard history, or verify: the word says which.
    Administer(&'static str),
    /// Administer the database as a whole: the word says how.
    AdministerDatabase(&'static str),
}

impl AccessAction {
    fn name(self) -> &'static str {
        match self {
            AccessAction::Read => "read",
            AccessAction::Write => "write",
            AccessAction::Create => "create table",
            AccessAction::Administer(what) | AccessAction::AdministerDatabase(what) => what,
        }
    }

    /// The role that it needs on each table.
    fn role(self) -> Role {
        match self {
            AccessAction::Read => Role::Read,
            AccessAction::Write => Role::Write,
            AccessAction::Create | AccessAction::Administer(_) | AccessAction::AdministerDatabase(_) => {
                Role::Admin
            }
        }
    }
}

/// Fails unless the caller may do something with each of some tables.
///
/// # Errors
/// `TABLE_NOT_FOUND` for a table that does not exist for the caller; `PERMISSION_DENIED` for one that it may see.
pub fn authorize<'t>(
    caller: &Caller,
    action: AccessAction,
    tables: impl IntoIterator<Item = &'t str>,
) -> Result<()> {
    if caller.is_everyone() && !is_recorded(caller, action) {
        return Ok(());
    }
    let (mut named, mut seen) = (Vec::new(), HashSet::new());
    for table in tables {
        // Most requests name one table, again and again.
        if named.first() != Some(&table) && (named.is_empty() || seen.insert(table)) {
            named.push(table);
        }
    }
    let decided = decide(caller, action, &named);
    record(caller, action, &named, decided.as_ref().err());
    decided
}

/// Whether the audit log may have a line of an action that is allowed.
fn is_recorded(caller: &Caller, action: AccessAction) -> bool {
    let audit = caller.control().audit();
    match action {
        AccessAction::Read => audit.records(AuditedCalls::READS),
        AccessAction::Write => audit.records(AuditedCalls::WRITES),
        AccessAction::Create | AccessAction::Administer(_) | AccessAction::AdministerDatabase(_) => true,
    }
}

fn decide(caller: &Caller, action: AccessAction, tables: &[&str]) -> Result<()> {
    if caller.is_admin() {
        return Ok(());
    }
    let Some(principal) = caller.principal() else {
        return Err(Error::new(Reason::Unauthenticated, "this daemon needs to know who calls"));
    };
    let denied = |what: String| {
        let message = format!("principal {:?} may not {what}", principal.name);
        Error::new(Reason::PermissionDenied, message)
    };
    if let AccessAction::AdministerDatabase(what) = action {
        return Err(denied(format!("{what}: only a database administrator may")));
    }
    if tables.is_empty() && !principal.has_role(action.role()) {
        return Err(denied(format!("{}: it has the role {} on no table", action.name(), action.role())));
    }
    for table in tables {
        match principal.role_on(table) {
            Some(role) if role >= action.role() => {}
            // Whether the table exists makes no difference.
            None if action != AccessAction::Create => {
                return Err(Error::unknown_table(&clip(table, limits::TABLE_NAME_BYTES), []));
            }
            _ => {
                let (name, needed) = (action.name(), action.role());
                return Err(denied(format!("{name} {table:?}: it needs the role {needed} on that table"))
                    .with("table", *table));
            }
        }
    }
    Ok(())
}

fn record(caller: &Caller, action: AccessAction, tables: &[&str], error: Option<&Error>) {
    let audit = caller.control().audit();
    let call = caller.audited(action.name(), tables);
    match (error, action) {
        (Some(error), _) => audit.denied(&call, error),
        (None, AccessAction::Read) => audit.call(AuditedCalls::READS, &call),
        (None, AccessAction::Write) => audit.call(AuditedCalls::WRITES, &call),
        (None, AccessAction::Create | AccessAction::Administer(_) | AccessAction::AdministerDatabase(_)) => {
            audit.admin(&call)
        }
    }
}
