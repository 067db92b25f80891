//! The stream of messages with which an RPC responds.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::Status;

use crate::error::Result;

/// The stream of messages with which an RPC responds.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
