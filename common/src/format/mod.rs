//! Bytes to types and back, with no I/O: what `FORMAT.md` describes.

pub mod block;
pub mod document;
pub mod event;
pub mod folded;
pub mod frame;
pub mod head;
pub mod json;
pub mod key;
pub mod manifest;
pub mod msgpack;
pub mod path;
pub mod snapshot;
pub mod sortkey;
pub mod value;
