//! Bytes on disk, in order: the append-only log and everything that keeps it whole.

pub mod disk;
