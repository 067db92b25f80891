//! What background work makes of a table: snapshots, indexes, merged layers and compacted logs.

pub mod compaction;
pub mod index;
pub mod merge_policy;
pub mod snapshot;
