//! A lock that lapses: the old holder, stopped before every operation of its way and woken up after another has taken over,
//! acknowledges nothing more, and nothing of what it does then is ever shown.

mod harness;

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::reader_service_client::ReaderServiceClient;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::event::EventType;
use driftdb_common::log::appender::{AppendError, Log, Options};
use driftdb_common::log::cursor::{Cursor, Span};
use driftdb_common::log::disk::sim::{Process, SimDisk};
use driftdb_common::log::fence::Fencing;
use driftdb_common::log::merge::Merge;
use driftdb_common::log::{dir, head, recovery};
use driftdb_common::service::server::Listener;
use driftdb_common::table::doctor;
use harness::script::{self, Seen};
use harness::{Reader, at_seq};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

const SEGMENT: u64 = 1024;
/// Commits that the old holder makes before it may be stopped.
const BEFORE: u64 = 2;
/// The last commit that it tries.
const LAST: u64 = 14;
