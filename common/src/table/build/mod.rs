//! What background work makes of a table: delta and image layers, indexes, merged layers and compacted logs.

pub mod compaction;
pub mod delta;
mod delta_limits;
pub mod image;
pub mod index;
pub mod merge;
pub mod merge_policy;
pub mod new_files;
pub mod progress;
pub mod requests_since;
