//! Resume tokens: opaque to clients, good at any reader of the database.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Database;
use serde::{Deserialize, Serialize};

/// Where a Select goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectToken {
    version: u8,
    database: [u8; 16],
    epoch: u64,
    /// The moment that is read.
    pub seq: u64,
    /// The last row handed out.
    after: WireKey,
    /// Rows handed out so far.
    pub count: u64,
    /// What was asked: another question cannot go on from here.
    filter: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum WireKey {
    Int(i64),
    Str(String),
}

const VERSION: u8 = 1;

impl SelectToken {
    /// The token after a row.
    pub fn new(database: &Database, seq: u64, after: &Key, count: u64, filter: u64) -> SelectToken {
        let after = match after {
            Key::Int(int) => WireKey::Int(*int),
            Key::Str(text) => WireKey::Str(text.to_string()),
        };
        SelectToken {
            version: VERSION,
            database: *database.id.as_bytes(),
            epoch: database.epoch,
            seq,
            after,
            count,
            filter,
        }
    }

    /// The token as clients hold it.
    pub fn encode(&self) -> Result<Vec<u8>> {
        rmp_serde::to_vec(self)
            .map_err(|e| Error::new(Reason::Internal, format!("cannot encode a token: {e}")))
    }

    /// Reads a token and checks that it is of this database, this history and this question.
    pub fn decode(bytes: &[u8], database: &Database, filter: u64) -> Result<SelectToken> {
        let token: SelectToken = rmp_serde::from_slice(bytes)
            .ok()
            .filter(|token: &SelectToken| token.version == VERSION)
            .ok_or_else(|| {
                Error::new(Reason::ArgumentInvalid, "resume_token is not one that a reader has given out")
            })?;
        if token.database != *database.id.as_bytes() || token.epoch != database.epoch {
            let message = "resume_token is of another database, or of another history of this one";
            return Err(Error::new(Reason::EpochChanged, message));
        }
        if token.filter != filter {
            let message = "resume_token is of another question: ask as before, with the token added";
            return Err(Error::new(Reason::FilterMismatch, message));
        }
        Ok(token)
    }

    /// The last row handed out.
    pub fn after(&self) -> Key {
        match &self.after {
            WireKey::Int(int) => Key::Int(*int),
            WireKey::Str(text) => Key::Str(text.as_str().into()),
        }
    }
}

/// A number for what is asked, stable over versions and machines.
pub fn filter_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    let mut total = 0u64;
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
        total += part.len() as u64 + 1;
    }
    u64::from(hash.finalize()) << 32 | total & 0xffff_ffff
}
