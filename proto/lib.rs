//! The gRPC API of DriftDB: messages, clients and servers generated from `proto/driftdb/v1`, and a client library.

#![warn(missing_docs)]

pub mod client;
pub mod stub;

/// Version 1 of the API: `WriterService`, `ReaderService` and the types they share.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("driftdb.v1");
}

/// The compiled `.proto` files for server reflection: an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("driftdb.v1");
