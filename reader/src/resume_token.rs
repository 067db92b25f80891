//! Resume tokens: opaque to clients, good at any reader of the database.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Database;
use serde::{Deserialize, Serialize};

/// What every token says first: which history it is of, and what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    version: u8,
    database: [u8; 16],
    epoch: u64,
    /// What was asked: another question cannot go on from here.
    filter: u64,
}

const VERSION: u8 = 2;

impl Origin {
    fn new(database: &Database, filter: u64) -> Origin {
        Origin { version: VERSION, database: *database.id.as_bytes(), epoch: database.epoch, filter }
    }

    /// Fails where a token is not of this database, this history and this question.
    fn check(&self, database: &Database, filter: u64) -> Result<()> {
        if self.version != VERSION {
            return Err(unknown());
        }
        if self.database != *database.id.as_bytes() || self.epoch != database.epoch {
            let message = "resume_token is of another database, or of another history of this one";
            return Err(Error::new(Reason::EpochChanged, message).with("epoch", database.epoch.to_string()));
        }
        if self.filter != filter {
            let message = "resume_token is of another question: ask as before, with the token added";
            return Err(Error::new(Reason::FilterMismatch, message));
        }
        Ok(())
    }
}

/// A row's key in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum WireKey {
    Int(i64),
    Str(String),
}

impl From<&Key> for WireKey {
    fn from(key: &Key) -> WireKey {
        match key {
            Key::Int(int) => WireKey::Int(*int),
            Key::Str(text) => WireKey::Str(text.to_string()),
        }
    }
}

impl From<&WireKey> for Key {
    fn from(key: &WireKey) -> Key {
        match key {
            WireKey::Int(int) => Key::Int(*int),
            WireKey::Str(text) => Key::Str(text.as_str().into()),
        }
    }
}

/// Where a Select goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectToken {
    origin: Origin,
    /// The moment that is read.
    pub seq: u64,
    /// The last row handed out.
    after: WireKey,
    /// Rows handed out so far.
    pub count: u64,
}

impl SelectToken {
    /// The token after a row.
    pub fn new(database: &Database, seq: u64, after: &Key, count: u64, filter: u64) -> SelectToken {
        SelectToken { origin: Origin::new(database, filter), seq, after: after.into(), count }
    }

    /// The token as clients hold it.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    /// Reads a token and checks that it is of this database, this history and this question.
    pub fn decode(bytes: &[u8], database: &Database, filter: u64) -> Result<SelectToken> {
        let token: SelectToken = rmp_serde::from_slice(bytes).map_err(|_| unknown())?;
        token.origin.check(database, filter)?;
        Ok(token)
    }

    /// The last row handed out.
    pub fn after(&self) -> Key {
        (&self.after).into()
    }
}

/// Where a watch goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchToken {
    origin: Origin,
    /// Everything up to this commit has been sent; of the initial rows, the moment that they are of.
    pub seq: u64,
    /// Set as long as initial rows are still to come.
    rows: Option<RowsAt>,
}

/// Where initial rows go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RowsAt {
    /// The table under way, by its id; those of lower ids have been sent.
    table: u64,
    /// Its last row that was looked at.
    after: Option<WireKey>,
}

impl WatchToken {
    /// The token after a commit.
    pub fn new(database: &Database, filter: u64, seq: u64) -> WatchToken {
        WatchToken { origin: Origin::new(database, filter), seq, rows: None }
    }

    /// The same moment, with initial rows sent up to a row of a table.
    #[must_use]
    pub fn at_row(self, table: u64, after: Option<&Key>) -> WatchToken {
        WatchToken { rows: Some(RowsAt { table, after: after.map(WireKey::from) }), ..self }
    }

    /// The token as clients hold it.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    /// Reads a token and checks that it is of this database, this history and this filter.
    pub fn decode(bytes: &[u8], database: &Database, filter: u64) -> Result<WatchToken> {
        let token: WatchToken = rmp_serde::from_slice(bytes).map_err(|_| unknown())?;
        token.origin.check(database, filter)?;
        Ok(token)
    }

    /// Where initial rows go on: the table by its id, and its last row; none where all have been sent.
    pub fn rows(&self) -> Option<(u64, Option<Key>)> {
        self.rows.as_ref().map(|rows| (rows.table, rows.after.as_ref().map(Key::from)))
    }
}

fn encode(token: &impl Serialize) -> Result<Vec<u8>> {
    rmp_serde::to_vec(token).map_err(|e| Error::new(Reason::Internal, format!("cannot encode a token: {e}")))
}

fn unknown() -> Error {
    Error::new(Reason::ArgumentInvalid, "resume_token is not one that a reader has given out")
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
