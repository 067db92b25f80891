//! Bytes on disk, in order: the append-only log and everything that keeps it whole.

pub mod appender;
pub mod background;
pub mod blocks;
pub mod cursor;
pub mod dir;
pub mod disk;
pub mod fence;
pub mod folded;
pub mod head;
pub mod lock;
pub mod merge;
pub mod recovery;
pub mod segment;
