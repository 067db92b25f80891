//! A Rust client: one handle for the writer and any number of readers. It retries only if that is safe.
//!
//! ```no_run
//! use driftdb::client::Client;
//! use driftdb::v1;
//!
//! # async fn tour() -> Result<(), tonic::Status> {
//! let client = Client::open("driftdb://127.0.0.1:7401,127.0.0.1:7402")?;
//! let orders = v1::CreateTableRequest { table: "orders".into(), primary_key: "id".into(), ..Default::default() };
//! client.create_table(orders).await?;
//! let inserted = client.insert("orders", r#"{"id":"o1","status":"pending"}"#).await?;
//! client.patch("orders", "o1", r#"{"status":"paid"}"#).await?;
//!
//! // A client reads its own writes.
//! let now = client.get("orders", "o1").await?.expect("the row exists");
//! assert_eq!(now.json(), Some(r#"{"id":"o1","status":"paid"}"#));
//!
//! let pending = v1::SelectRequest {
//!     table: "orders".into(),
//!     r#where: "status = $1".into(),
//!     params: vec![r#""pending""#.into()],
//!     as_of: Some(v1::AsOf::seq(inserted.seq)),
//!     ..Default::default()
//! };
//! let mut rows = client.select(pending).await?;
//! while let Some(row) = rows.next().await? {
//!     println!("{} was pending as of commit {}", row.key, rows.header().read_seq);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::table`] reads and writes documents as types of serde. [`Client::watch`] follows changes:
//!
//! ```no_run
//! use driftdb::client::{Client, WatchEvent};
//! use driftdb::v1;
//!
//! # async fn follow(client: Client) -> Result<(), tonic::Status> {
//! let orders = v1::WatchDriftRequest { tables: vec!["orders".into()], with_after: true, ..Default::default() };
//! let mut watch = client.watch(orders);
//! while let Some(event) = watch.next().await? {
//!     if let WatchEvent::Commit(commit) = event {
//!         println!("commit {}: {} changes", commit.seq, commit.changes.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod api;
mod bulk_load;
mod credentials;
mod handle;
mod jobs;
mod messages;
mod opening;
mod pauses;
mod planted;
mod pool;
mod reading;
mod reasons;
mod rows;
mod shorthand;
mod table;
#[cfg(test)]
mod tests;
mod time_limit;
mod tls;
mod tls_stream;
mod watching;
mod writing;

pub use api::{ReaderApi, WriterApi, reader_on, reader_with, writer_on, writer_with};
pub use bulk_load::{BulkLoadOptions, BulkLoaded};
pub use credentials::{BearerToken, Credentials};
pub use handle::{Client, ClientOptions, connect, connect_with};
pub use messages::MessageStream;
pub use reasons::{created_or_dropped_at, reason, standby_for, unreachable_at};
pub use rows::RowStream;
pub use table::{Table, TypedRow, TypedRows};
pub use tls::{ClientIdentity, ClientTls};
pub use watching::{WatchEvent, Watcher};
pub use writing::{Executed, WriteReceipt};
