//! The generated clients of both services, with the message size that daemons need.

use tonic::transport::Channel;

use crate::v1;
use v1::reader_service_client::ReaderServiceClient;
use v1::writer_service_client::WriterServiceClient;

/// The API of a writer, on a connection of a [`Client`](super::Client).
pub type WriterApi = WriterServiceClient<Channel>;
/// The API of a reader, on a connection of a [`Client`](super::Client).
pub type ReaderApi = ReaderServiceClient<Channel>;

/// The maximum size of a message from a daemon, in bytes.
const MESSAGE_BYTES: usize = 64 << 20;

/// The API of a writer on a connection, without a limit for responses below that of the daemon.
pub fn writer_on(channel: Channel) -> WriterApi {
    WriterServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// The API of a reader on a connection, without a limit for responses below that of the daemon.
pub fn reader_on(channel: Channel) -> ReaderApi {
    ReaderServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}
