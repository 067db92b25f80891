//! Page tokens of ListTables: the last table of a page, and whom the token was made for.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::access::caller::Caller;

/// The token of the page after a table, for a caller: the table's name, and whom the token was made for.
pub fn page_token(table: &str, caller: &Caller) -> String {
    match caller.token_scope() {
        0 => table.to_owned(),
        scope => format!("{table}.{scope:016x}"),
    }
}

/// The table after which a page starts. No name of a table has a dot.
pub fn page_start(token: &str, caller: &Caller) -> Result<String> {
    if token.is_empty() {
        return Ok(String::new());
    }
    let (table, scope) = token.split_once('.').unwrap_or((token, "0"));
    let scope = u64::from_str_radix(scope, 16).map_err(|_| {
        let message = "page_token is invalid; pass a token exactly as a reader returned it";
        Error::new(Reason::ArgumentInvalid, message)
    })?;
    caller.check_token_scope(scope)?;
    Ok(table.to_owned())
}
