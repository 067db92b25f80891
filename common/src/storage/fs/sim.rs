//! A file system in memory that can lose power, fail and ignore syncs, for tests.

mod crash;
mod disk;
mod faults;
mod process;
mod state;
#[cfg(test)]
mod tests;

pub use crash::CrashPolicy;
pub use disk::SimDisk;
pub use faults::{Fault, Repeat, SimOp, TracedOp, is_power_off};
pub use process::SimProcess;
