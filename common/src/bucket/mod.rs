//! The database in an object store: chunks of the log and immutable files, from which a directory with the same bytes can be made.
//!
//! Only a create-only PUT of the next number decides who writes (`fencing`). There is no clock, no lease and no object that is
//! overwritten, because stores limit writes per name, and clocks lie.

pub mod beginning;
pub mod bucket_check;
pub mod bucket_options;
pub mod chain;
pub mod chunk;
mod chunk_bytes;
pub mod collection;
mod disk_state;
pub mod fencing;
pub mod link;
mod link_state;
pub mod mirror;
mod mirror_content;
mod mirror_files;
pub mod objects;
mod part_cache;
mod part_requests;
mod postponed_uploads;
mod remote;
pub mod remote_files;
pub mod restore;
mod ship_source;
pub mod shipped;
pub mod shipper;
pub mod store;
mod truncation;
