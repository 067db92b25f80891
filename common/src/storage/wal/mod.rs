//! The write-ahead log: each table has its own segments of frames. The writer appends groups of commits; readers
//! reassemble whole commits.

pub mod appender;
pub(super) mod background;
pub mod commit_reader;
pub mod compaction_base;
pub mod cursor;
pub(super) mod segment;
