//! The writing client of `bench`: durable commits of one event each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use tonic::transport::Channel;
use v1::operation::Action;

use super::load::Call;
use crate::database::{WriterApi, writer_on};
use crate::errors::to_error;
use crate::orders::{SplitMix64, order};

/// The number of digits of a key, after `ORD-`.
const DIGITS: usize = 10;
/// The number of digits of a customer, after `CUST-W`: no customer of the history.
const CUSTOMER_DIGITS: usize = 3;

/// The state shared by the clients of one bench: every write has a new key, in every run.
#[derive(Debug, Clone)]
pub(crate) struct RowWrites {
    tables: Arc<[String]>,
    template: Arc<Template>,
    next: Arc<AtomicU64>,
}

/// An order as MessagePack.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    /// The offset of the digits of its key.
    key: usize,
    /// The offset of the digits of its customer.
    customer: usize,
}

impl RowWrites {
    /// Writes that insert into tables in turn. `padding` bytes are added to a document of about 200 bytes.
    pub(crate) fn new(tables: &[String], padding: usize) -> Result<RowWrites> {
        let mut order = order(0, 0);
        order.id = format!("ORD-{:0DIGITS$}", 0);
        order.customer = format!("CUST-W{:0CUSTOMER_DIGITS$}", 0);
        let mut text = order.json();
        if padding > 0 {
            let mut random = SplitMix64::new(padding as u64);
            let mut letter = || char::from(b'a' + u8::try_from(random.below(26)).unwrap_or_default());
            text.pop();
            text.push_str(",\"padding\":\"");
            text.extend(std::iter::repeat_with(&mut letter).take(padding));
            text.push_str("\"}");
        }
        let bytes = Document::from_json(&text)?.msgpack().to_vec();
        let find = |what: &str| {
            let found = bytes.windows(what.len()).position(|window| window == what.as_bytes());
            found.ok_or_else(|| Error::new(Reason::Internal, "the encoded order lacks a part"))
        };
        let (key, customer) = (find(&order.id)? + "ORD-".len(), find(&order.customer)? + "CUST-W".len());
        let template = Arc::new(Template { bytes, key, customer });
        Ok(RowWrites { tables: tables.into(), template, next: Arc::default() })
    }

    /// Clients, spread over connections.
    pub(crate) fn clients(&self, channels: &[Channel], count: usize) -> Vec<WriteClient> {
        self.clients_on(channels.iter().cycle().take(count).map(|channel| writer_on(channel.clone())))
    }

    /// A client on each of these connections.
    pub(crate) fn clients_on(&self, writers: impl Iterator<Item = WriterApi>) -> Vec<WriteClient> {
        writers.map(|writer| WriteClient { writer, work: self.clone() }).collect()
    }

    /// Clients that write many rows in each call, spread over connections.
    pub(crate) fn batch_clients(&self, channels: &[Channel], count: usize, rows: usize) -> Vec<BatchClient> {
        let clients = self.clients(channels, count).into_iter();
        clients.map(|client| BatchClient { client, rows }).collect()
    }

    /// The insert of a document with a key that no other document has.
    pub(crate) fn operation(&self) -> v1::Operation {
        let mut document = self.template.bytes.clone();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        put_digits(&mut document, (self.template.key, DIGITS), number);
        put_digits(&mut document, (self.template.customer, CUSTOMER_DIGITS), number);
        let table = usize::try_from(number % self.tables.len().max(1) as u64).unwrap_or_default();
        let document = v1::Document { body: Some(v1::document::Body::Msgpack(document.into())) };
        v1::Operation {
            table: self.tables.get(table).cloned().unwrap_or_default(),
            key: String::new(),
            action: Some(Action::Insert(document)),
        }
    }
}

/// Writes the last digits of a number.
fn put_digits(document: &mut [u8], (position, digits): (usize, usize), mut number: u64) {
    for digit in document.iter_mut().skip(position).take(digits).rev() {
        // The remainder is one digit.
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// A client that inserts many rows per call.
#[derive(Debug)]
pub(crate) struct BatchClient {
    client: WriteClient,
    rows: usize,
}

impl Call for BatchClient {
    async fn call(&mut self) -> Result<()> {
        let work = &self.client.work;
        let operations = std::iter::repeat_with(|| work.operation()).take(self.rows).collect();
        let request = v1::ApplyRequest { operations, ..Default::default() };
        acknowledged(&mut self.client.writer, request).await.map(drop)
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
        let request = v1::ApplyRequest { operations: vec![self.work.operation()], ..Default::default() };
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

    fn text_of(operation: v1::Operation) -> String {
        let Some(Action::Insert(v1::Document { body: Some(v1::document::Body::Msgpack(bytes)) })) =
            operation.action
        else {
            panic!("not an insert");
        };
        Document::from_msgpack(bytes).unwrap().to_json().unwrap()
    }

    #[test]
    fn every_document_has_a_unique_key_and_goes_to_the_next_table() {
        let work = RowWrites::new(&["t".to_owned(), "u".to_owned()], 0).unwrap();
        for (number, table) in ["t", "u", "t"].into_iter().enumerate() {
            let operation = work.operation();
            assert_eq!(operation.table, table);
            let document = text_of(operation);
            assert!(document.contains(&format!("\"id\":\"ORD-000000000{number}\"")), "{document}");
            assert!(document.contains(&format!("\"customer_id\":\"CUST-W00{number}\"")), "{document}");
        }
    }

    #[test]
    fn a_document_is_as_long_as_asked() {
        let long = text_of(RowWrites::new(&["t".to_owned()], 5000).unwrap().operation());
        assert!((5200..5300).contains(&long.len()), "{}", long.len());
    }
}
