//! Bytes on disk: the data directory, its files, and the write-ahead log, from which all other files can be rebuilt.

pub mod clock_record;
pub mod descriptors;
pub mod disk_space;
pub mod fence;
pub mod foreign_files;
pub mod fs;
pub mod head;
pub(crate) mod head_file;
pub mod head_reader;
pub mod io_ban;
pub mod layout;
pub mod lineage;
pub mod lock;
pub mod process_usage;
pub mod recovery;
pub mod sst;
pub mod wal;
