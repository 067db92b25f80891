//! The write-ahead log: segments of frames for each table, written in groups and read back as whole commits.

pub mod appender;
pub mod background;
pub mod commits;
pub mod compaction_base;
pub mod cursor;
pub mod segment;
