//! Resume tokens: opaque to clients, and valid at every reader of the database.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::format::lineage::LineagePoint;
use driftdb_common::format::manifest::Database;
use serde::{Deserialize, Serialize};

/// The first part of every token: the database, its history, and the request that the token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenScope {
    version: u8,
    database: [u8; 16],
    epoch: u64,
    /// [`request_hash`] of the request. A token resumes only the same request.
    request: u64,
    /// The incarnation that wrote the token's commit; 0 if it is not known. Tokens of version 2 do not have it.
    #[serde(default)]
    incarnation: u64,
    /// What the principal's name hashes to that the token was made for. Left out if there was none, so that such tokens are what they
    /// were before principals existed.
    #[serde(default, skip_serializing_if = "is_zero")]
    principal: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

const VERSION: u8 = 3;
/// The oldest version that is accepted.
const OLDEST_VERSION: u8 = 2;

impl TokenScope {
    fn new(database: &Database, (request, principal): (u64, u64), incarnation: u64) -> TokenScope {
        let (database, epoch) = (*database.id.as_bytes(), database.epoch);
        TokenScope { version: VERSION, database, epoch, request, incarnation, principal }
    }

    /// Fails unless the token belongs to this database, this epoch and this request.
    fn check(&self, database: &Database, request: u64) -> Result<()> {
        if !(OLDEST_VERSION..=VERSION).contains(&self.version) {
            return Err(not_a_token());
        }
        if self.database != *database.id.as_bytes() || self.epoch != database.epoch {
            let message = "resume_token belongs to another database or to an earlier epoch of this one; \
                           start again without a token";
            return Err(Error::new(Reason::EpochChanged, message).with("epoch", database.epoch.to_string()));
        }
        if self.request != request {
            let message =
                "resume_token belongs to another request; repeat the first request and add the token";
            return Err(Error::new(Reason::FilterMismatch, message));
        }
        Ok(())
    }
}

/// A row's key inside a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum TokenKey {
    Int(i64),
    Str(String),
}

impl From<&Key> for TokenKey {
    fn from(key: &Key) -> TokenKey {
        match key {
            Key::Int(int) => TokenKey::Int(*int),
            Key::Str(text) => TokenKey::Str(text.to_string()),
        }
    }
}

impl From<&TokenKey> for Key {
    fn from(key: &TokenKey) -> Key {
        match key {
            TokenKey::Int(int) => Key::Int(*int),
            TokenKey::Str(text) => Key::Str(text.as_str().into()),
        }
    }
}

/// The position at which a Select continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectToken {
    scope: TokenScope,
    /// The commit at which the rows are read.
    pub seq: u64,
    /// The last row that was sent.
    after: TokenKey,
    /// The number of rows sent so far.
    pub count: u64,
}

impl SelectToken {
    /// A token for the position after a row, of a request and a principal.
    pub fn new(
        database: &Database,
        request: (u64, u64),
        LineagePoint { incarnation, seq }: LineagePoint,
        after: &Key,
        count: u64,
    ) -> SelectToken {
        let scope = TokenScope::new(database, request, incarnation);
        SelectToken { scope, seq, after: after.into(), count }
    }

    /// What the token says of the principal that it was made for; 0 if there was none.
    pub fn principal(&self) -> u64 {
        self.scope.principal
    }

    /// The commit at which the rows are read, to be looked for in the history.
    pub fn point(&self) -> LineagePoint {
        LineagePoint { incarnation: self.scope.incarnation, seq: self.seq }
    }

    /// Encodes the token for the client.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    /// Decodes a token. Fails unless it belongs to this database, this epoch and this request.
    pub fn decode(bytes: &[u8], database: &Database, request: u64) -> Result<SelectToken> {
        let token: SelectToken = rmp_serde::from_slice(bytes).map_err(|_| not_a_token())?;
        token.scope.check(database, request)?;
        Ok(token)
    }

    /// The key of the last row that was sent.
    pub fn after(&self) -> Key {
        (&self.after).into()
    }
}

/// A position within the initial rows of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitialRowPosition {
    /// The id of the current table. The rows of tables with lower ids have been sent.
    pub table: u64,
    /// The last row of that table that was read; `None` at its start.
    pub after: Option<Key>,
}

/// The position at which a watch continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchToken {
    scope: TokenScope,
    /// All commits up to this one have been sent. While initial rows are being sent, the commit at which they are read.
    pub seq: u64,
    /// The position in the initial rows; `None` once all of them have been sent.
    rows: Option<TokenRowPosition>,
    /// Only commits after this time are sent, in milliseconds since 1970. Older tokens do not have it.
    #[serde(default)]
    after_ms: u64,
}

/// A [`InitialRowPosition`] inside a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenRowPosition {
    table: u64,
    after: Option<TokenKey>,
}

impl WatchToken {
    /// A token for the position after a commit, or for a position within the initial rows at that commit, of a request and a principal.
    pub fn new(
        database: &Database,
        request: (u64, u64),
        LineagePoint { incarnation, seq }: LineagePoint,
        rows: Option<&InitialRowPosition>,
    ) -> WatchToken {
        let rows = rows.map(|rows| TokenRowPosition {
            table: rows.table,
            after: rows.after.as_ref().map(TokenKey::from),
        });
        WatchToken { scope: TokenScope::new(database, request, incarnation), seq, rows, after_ms: 0 }
    }

    /// What the token says of the principal that it was made for; 0 if there was none.
    pub fn principal(&self) -> u64 {
        self.scope.principal
    }

    /// The commit of the token, to be looked for in the history.
    pub fn point(&self) -> LineagePoint {
        LineagePoint { incarnation: self.scope.incarnation, seq: self.seq }
    }

    /// The same token for a watch that sends only commits after a time.
    #[must_use]
    pub fn after_time(self, after_ms: u64) -> WatchToken {
        WatchToken { after_ms, ..self }
    }

    /// The time after which commits are sent, in milliseconds since 1970; 0 if all are.
    pub fn after_ms(&self) -> u64 {
        self.after_ms
    }

    /// Encodes the token for the client.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    /// Decodes a token. Fails unless it belongs to this database, this epoch and this request.
    pub fn decode(bytes: &[u8], database: &Database, request: u64) -> Result<WatchToken> {
        let token: WatchToken = rmp_serde::from_slice(bytes).map_err(|_| not_a_token())?;
        token.scope.check(database, request)?;
        Ok(token)
    }

    /// The position in the initial rows; `None` if all of them have been sent.
    pub fn rows(&self) -> Option<InitialRowPosition> {
        let rows = self.rows.as_ref()?;
        Some(InitialRowPosition { table: rows.table, after: rows.after.as_ref().map(Key::from) })
    }
}

fn encode(token: &impl Serialize) -> Result<Vec<u8>> {
    let encoded = rmp_serde::to_vec(token);
    encoded.map_err(|e| Error::new(Reason::Internal, format!("cannot encode a resume token: {e}")))
}

fn not_a_token() -> Error {
    Error::new(
        Reason::ArgumentInvalid,
        "resume_token is invalid; pass a token exactly as a reader returned it",
    )
}

/// A hash of the parts of a request, the same for every version of DriftDB and on every machine.
pub fn request_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    let mut total = 0u64;
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
        total += part.len() as u64 + 1;
    }
    u64::from(hash.finalize()) << 32 | total & 0xffff_ffff
}
