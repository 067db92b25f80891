//! The values of columns, encoded: as a query computes with them, and as a result shows them.

use std::borrow::Cow;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::msgpack::{self, MsgpackItem};
use crate::query::ast::{Column, SelectItem};
use crate::query::predicate::RowRef;
use crate::table::format_time;

impl Column {
    /// The encoded value in a row; `None` if the row has no such field. A time is in milliseconds since 1970.
    ///
    /// # Errors
    /// `CORRUPT` if the document is damaged.
    pub fn value_in<'a>(&self, row: RowRef<'a>) -> Result<Option<Cow<'a, [u8]>>> {
        let own = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut value = Vec::new();
            write(&mut value);
            Ok(Some(Cow::Owned(value)))
        };
        match self {
            Column::Path(path) => Ok(row.document.get(path)?.map(Cow::Borrowed)),
            Column::Key => own(&|out| row.key.encode(out)),
            Column::Seq => own(&|out| msgpack::write_uint(out, row.seq)),
            Column::Time => own(&|out| msgpack::write_uint(out, row.time_ms)),
            Column::Aggregate(aggregate) => {
                let message = format!("cannot read {aggregate} from a row");
                Err(Error::new(Reason::Internal, message))
            }
        }
    }
}

/// A column of a result: its name, and how to show its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    /// The name.
    pub label: String,
    /// Whether its values are times in milliseconds, which are shown as texts.
    pub is_time: bool,
}

impl ResultColumn {
    /// The columns of a select list.
    pub fn of_items(items: &[SelectItem]) -> Vec<ResultColumn> {
        let labels = SelectItem::labels(items).into_iter().zip(items);
        labels.map(|(label, item)| ResultColumn { label, is_time: item.column.is_time() }).collect()
    }
}

/// Returns a document with one field for each column that has a value, in the order of the columns.
///
/// # Errors
/// `CORRUPT` if a value is damaged.
pub fn result_document<'a>(
    columns: &[ResultColumn],
    values: impl IntoIterator<Item = Option<Cow<'a, [u8]>>>,
) -> Result<Document> {
    let mut fields = Vec::new();
    let mut len = 0;
    for (column, value) in columns.iter().zip(values) {
        let Some(value) = value else { continue };
        len += 1;
        msgpack::write_str(&mut fields, &column.label);
        match msgpack::first(&value)? {
            MsgpackItem::Int(millis) if column.is_time => {
                let millis = u64::try_from(millis).unwrap_or_default();
                msgpack::write_str(&mut fields, &format_time(millis));
            }
            _ => fields.extend_from_slice(&value),
        }
    }
    let mut encoded = Vec::with_capacity(fields.len() + 5);
    msgpack::write_map_len(&mut encoded, len);
    encoded.extend_from_slice(&fields);
    Ok(Document::trusted(encoded.into()))
}
