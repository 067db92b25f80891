//! Bytes to types and back, without I/O. `FORMAT.md` describes the bytes.

pub mod compaction_base;
pub mod document;
pub mod event;
pub mod frame;
pub mod head;
pub mod index_columns;
pub mod json;
pub mod key;
pub mod lineage;
pub mod manifest;
pub mod msgpack;
pub mod order_key;
pub mod path;
pub mod principal_text;
pub mod rfc3339;
pub mod snapshot;
pub mod sortkey;
pub mod sst;
pub mod value;
mod varint;
