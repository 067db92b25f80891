//! Bytes on disk: the data directory, its files, and the write-ahead log that everything else is rebuilt from.

pub mod fence;
pub mod fs;
pub mod head;
pub mod layout;
pub mod lock;
pub mod recovery;
pub mod sst;
pub mod wal;
