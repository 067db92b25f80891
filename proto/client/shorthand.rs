//! Conversions and constructors for documents, operations and points in time.

use crate::v1;
use v1::document::Body;
use v1::operation::{Action, SoftDelete};

impl From<&str> for v1::Document {
    /// JSON text.
    fn from(json: &str) -> v1::Document {
        v1::Document::from(json.to_owned())
    }
}

impl From<String> for v1::Document {
    /// JSON text.
    fn from(json: String) -> v1::Document {
        v1::Document { body: Some(Body::Json(json)) }
    }
}

impl v1::Document {
    /// The JSON text, if the document is JSON. Responses contain JSON unless MessagePack was requested.
    pub fn as_json(&self) -> Option<&str> {
        match &self.body {
            Some(Body::Json(text)) => Some(text),
            _ => None,
        }
    }
}

impl v1::Row {
    /// The JSON text of the document, if it is JSON. Responses contain JSON unless MessagePack was requested.
    pub fn json(&self) -> Option<&str> {
        self.document.as_ref()?.as_json()
    }
}

impl v1::Operation {
    fn of(table: &str, key: &str, action: Action) -> v1::Operation {
        v1::Operation { table: table.to_owned(), key: key.to_owned(), action: Some(action) }
    }

    /// Inserts a row; the document contains the primary key.
    pub fn insert(table: &str, document: impl Into<v1::Document>) -> v1::Operation {
        v1::Operation::of(table, "", Action::Insert(document.into()))
    }

    /// Inserts or replaces a row.
    pub fn put(table: &str, document: impl Into<v1::Document>) -> v1::Operation {
        v1::Operation::of(table, "", Action::Put(document.into()))
    }

    /// Applies a merge patch (RFC 7396) to a row.
    pub fn patch(table: &str, key: &str, patch: impl Into<v1::Document>) -> v1::Operation {
        v1::Operation::of(table, key, Action::Patch(patch.into()))
    }

    /// Deletes a row; its history stays readable.
    pub fn delete(table: &str, key: &str) -> v1::Operation {
        v1::Operation::of(table, key, Action::SoftDelete(SoftDelete {}))
    }

    /// Restores a row as of a point in time, with a new event.
    pub fn revert(table: &str, key: &str, to: v1::AsOf) -> v1::Operation {
        v1::Operation::of(table, key, Action::Revert(v1::operation::Revert { to: Some(to) }))
    }
}

impl From<Vec<v1::Operation>> for v1::ApplyRequest {
    fn from(operations: Vec<v1::Operation>) -> v1::ApplyRequest {
        v1::ApplyRequest { operations, ..Default::default() }
    }
}

impl v1::AsOf {
    /// The state after a commit.
    pub fn seq(seq: u64) -> v1::AsOf {
        v1::AsOf { at: Some(v1::as_of::At::Seq(seq)) }
    }
}

impl From<v1::WriteToken> for v1::Freshness {
    /// At least as fresh as a write.
    fn from(token: v1::WriteToken) -> v1::Freshness {
        let v1::WriteToken { seq: min_seq, epoch, incarnation, .. } = token;
        v1::Freshness { min_seq, epoch, incarnation, ..Default::default() }
    }
}
