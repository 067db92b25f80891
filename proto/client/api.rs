//! The generated clients of both services, with the message size that daemons need.

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::credentials::Credentials;
use crate::v1;
use v1::reader_service_client::ReaderServiceClient;
use v1::writer_service_client::WriterServiceClient;

/// The API of a writer, on a connection of a [`Client`](super::Client).
pub type WriterApi = WriterServiceClient<InterceptedService<Channel, Credentials>>;
/// The API of a reader, on a connection of a [`Client`](super::Client).
pub type ReaderApi = ReaderServiceClient<InterceptedService<Channel, Credentials>>;

/// The maximum size of a message from a daemon, in bytes.
const MESSAGE_BYTES: usize = 64 << 20;

/// The API of a writer on a connection, without a limit for responses below that of the daemon.
pub fn writer_on(channel: Channel) -> WriterApi {
    writer_with(channel, Credentials::default())
}

/// The API of a reader on a connection, without a limit for responses below that of the daemon.
pub fn reader_on(channel: Channel) -> ReaderApi {
    reader_with(channel, Credentials::default())
}

/// The API of a writer on a connection, with the token of a client.
pub fn writer_with(channel: Channel, credentials: Credentials) -> WriterApi {
    WriterServiceClient::with_interceptor(channel, credentials).max_decoding_message_size(MESSAGE_BYTES)
}

/// The API of a reader on a connection, with the token of a client.
pub fn reader_with(channel: Channel, credentials: Credentials) -> ReaderApi {
    ReaderServiceClient::with_interceptor(channel, credentials).max_decoding_message_size(MESSAGE_BYTES)
}
