//! The token with which driftctl calls daemons: from a file, never from an argument, which other users of the machine could see.

use std::io::Read;
use std::sync::OnceLock;

use driftdb::client::{BearerToken, Credentials};
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs;

use crate::args::GlobalArgs;
use crate::errors::to_error;

/// A longer file is no token.
const TOKEN_BYTES: u64 = 4096;

/// The token of this process.
static TOKEN: OnceLock<BearerToken> = OnceLock::new();

/// Reads the token file that the options name, if they name one and daemons are called.
pub(crate) fn load(global: &GlobalArgs) -> Result<()> {
    let Some(path) = global.token_file.as_ref().filter(|_| global.data.is_none()) else { return Ok(()) };
    let mut text = String::new();
    let read = fs::open_input(path)?.take(TOKEN_BYTES).read_to_string(&mut text);
    read.map_err(|e| Error::io(format_args!("cannot read the token file {}", path.display()), &e))?;
    let token = BearerToken::new(&text).map_err(|status| {
        let message = format!("cannot use the token file {}: {}", path.display(), status.message());
        Error::new(Reason::ArgumentInvalid, message)
    })?;
    // A process has one command line, so it has one token.
    TOKEN.get_or_init(|| token);
    Ok(())
}

/// Calls daemons with a token from now on, unless the options name one.
pub(crate) fn set(token: BearerToken) {
    TOKEN.get_or_init(|| token);
}

/// The token, if there is one.
pub(crate) fn token() -> Option<BearerToken> {
    TOKEN.get().cloned()
}

/// Fails if there is a token, and others could read it on its way to an address.
pub(crate) fn check_address(address: &str, has_tls: bool) -> Result<()> {
    let scheme = if has_tls { "https://" } else { "http://" };
    let url = if address.contains("://") { address.to_owned() } else { format!("{scheme}{address}") };
    Credentials::new(token(), &url).check().map_err(|status| to_error(&status))
}
