//! The write-ahead log: each table has its own segments of frames. The writer appends groups of commits; readers
//! reassemble whole commits.

pub(super) mod append_error;
pub mod appender;
pub(super) mod background;
pub mod commit_reader;
pub mod compaction_base;
pub mod cursor;
mod group_writer;
mod new_table;
pub(super) mod next_segment;
pub mod pending_manifest;
pub mod publish_gate;
mod rotation;
pub(super) mod segment;
