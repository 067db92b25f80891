//! Long jobs: snapshots, compactions and verifications that calls start.
//!
//! Each job runs on its own thread and continues if its caller disconnects. Jobs that would interfere with
//! each other run in the order in which they were started.

mod follower;
mod job;
mod registry;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use follower::{JobEvent, JobFollower};
pub(crate) use job::{JobHandle, JobProgress};
pub(crate) use registry::Jobs;
pub(crate) use task::{JobKind, JobTask};
