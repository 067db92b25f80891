//! Bytes to types and back, with no I/O: what `FORMAT.md` describes.

pub mod document;
pub mod json;
pub mod key;
pub mod msgpack;
pub mod path;
pub mod value;
