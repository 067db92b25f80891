//! The writing client of `bench`: durable commits of one event each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use tonic::transport::Channel;
use v1::operation::Action;

use super::load::Call;
use crate::database::{WriterApi, writer_on};
use crate::errors::to_error;
use crate::orders::order;

/// The number of digits of a key, after `ORD-`.
const DIGITS: usize = 10;

/// The state shared by the clients of one bench: every write has a new key, in every run.
#[derive(Debug, Clone)]
pub(crate) struct RowWrites {
    table: String,
    /// An order as MessagePack, and the offset of the digits of its key.
    template: Arc<(Vec<u8>, usize)>,
    next: Arc<AtomicU64>,
}

impl RowWrites {
    /// Writes that inserts into a table.
    pub(crate) fn new(table: &str) -> Result<RowWrites> {
        let mut order = order(0, 0);
        order.id = format!("ORD-{:0DIGITS$}", 0);
        let template = Document::from_json(&order.json())?.msgpack().to_vec();
        let position = template.windows(order.id.len()).position(|window| window == order.id.as_bytes());
        let position = position
            .ok_or_else(|| Error::new(Reason::Internal, "the encoded order does not contain its key"))?;
        let template = Arc::new((template, position + "ORD-".len()));
        Ok(RowWrites { table: table.to_owned(), template, next: Arc::default() })
    }

    /// Clients, spread over connections.
    pub(crate) fn clients(&self, channels: &[Channel], count: usize) -> Vec<WriteClient> {
        let channels = channels.iter().cycle().take(count);
        channels
            .map(|channel| WriteClient { writer: writer_on(channel.clone()), work: self.clone() })
            .collect()
    }

    /// A document with a key that no other document has.
    fn document(&self) -> Bytes {
        let (template, position) = &*self.template;
        let mut document = template.clone();
        let mut number = self.next.fetch_add(1, Ordering::Relaxed);
        for digit in document.iter_mut().skip(*position).take(DIGITS).rev() {
            // The remainder is one digit.
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
        document.into()
    }
}

/// A client that inserts one row per call.
#[derive(Debug)]
pub(crate) struct WriteClient {
    writer: WriterApi,
    work: RowWrites,
}

impl WriteClient {
    /// Commits one event. Returns its seq.
    pub(crate) async fn write(&mut self) -> Result<u64> {
        let document = v1::Document { body: Some(v1::document::Body::Msgpack(self.work.document())) };
        let operation = v1::Operation {
            table: self.work.table.clone(),
            key: String::new(),
            action: Some(Action::Insert(document)),
        };
        let request = v1::ApplyRequest { operations: vec![operation], ..Default::default() };
        acknowledged(&mut self.writer, request).await
    }
}

impl Call for WriteClient {
    async fn call(&mut self) -> Result<()> {
        self.write().await.map(drop)
    }
}

/// A Put of an order's version, encoded as MessagePack.
pub(crate) fn put_order(table: &str, number: u32, version: u32) -> Result<v1::Operation> {
    let document = Document::from_json(&order(number.into(), version.into()).json())?;
    let body = Some(v1::document::Body::Msgpack(document.msgpack().clone()));
    Ok(v1::Operation::put(table, v1::Document { body }))
}

/// Sends a write and checks that it was committed. Returns its seq.
pub(crate) async fn acknowledged(writer: &mut WriterApi, request: v1::ApplyRequest) -> Result<u64> {
    let answer = writer.apply(request).await.map_err(|s| to_error(&s))?.into_inner();
    match answer.token {
        Some(token) if token.seq > 0 => Ok(token.seq),
        _ => Err(Error::new(Reason::Internal, "the writer acknowledged a write without a seq")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_has_a_unique_key() {
        let work = RowWrites::new("t").unwrap();
        for expected in ["ORD-0000000000", "ORD-0000000001"] {
            let document = Document::from_msgpack(work.document()).unwrap().to_json().unwrap();
            assert!(document.contains(&format!("\"id\":\"{expected}\"")), "{document}");
        }
    }
}
