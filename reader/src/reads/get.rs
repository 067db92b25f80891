//! Get: the rows with some keys at one point in time.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;
use driftdb_common::work;

use crate::message_size::document_size;
use crate::replica::{Applied, Replica};

/// About what a row takes in an answer besides its key and document.
const ROW_BYTES: usize = 48;

/// A Get.
#[derive(Debug)]
pub struct GetQuery {
    /// Who asks.
    pub caller: Caller,
    /// The table.
    pub table: String,
    /// The keys.
    pub keys: Vec<String>,
    /// The point in time; `None` for now.
    pub as_of: Option<PointInTime>,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
}

/// Reads the rows from a state of the replica. Returns the keys for which the response has no more room.
pub fn read_rows(replica: &Replica, applied: &Arc<Applied>, get: &GetQuery) -> Result<v1::GetResponse> {
    let point = replica.point_at(applied, get.as_of)?;
    let view = point.view(&get.table, &get.caller)?;
    let mut response =
        v1::GetResponse { header: Some(point.header(replica, [view.timeline()])?), ..Default::default() };
    // A key is in the answer in any case: with its row, or among those that remain.
    let mut bytes = get.keys.iter().map(String::len).sum::<usize>();
    let mut keys = get.keys.iter();
    for text in keys.by_ref() {
        work::step_bytes(text.len())?;
        let key = Key::parse(text, view.schema().key_type)?;
        let Some(row) = view.get(&key)? else { continue };
        let row = convert::row_to_wire(&row, get.format)?;
        bytes += ROW_BYTES + document_size(row.document.as_ref());
        if bytes > limits::GET_BYTES && !response.rows.is_empty() {
            response.remaining.push(text.clone());
            break;
        }
        response.rows.push(row);
    }
    response.remaining.extend(keys.cloned());
    Ok(response)
}
