//! DriftDB from Rust: keeps a copy of a table up to date, and uses the next reader if one fails.

use std::collections::BTreeMap;

use driftdb::client::{Client, WatchEvent, reason};
use driftdb::v1::{Change, ChangeKind, Document, WatchDriftRequest};

#[tokio::main]
async fn main() -> Result<(), tonic::Status> {
    let readers = std::env::var("DRIFTDB_READER").unwrap_or("127.0.0.1:7402".to_owned());
    let client = Client::new(Vec::<String>::new(), readers.split(','));
    let tables = vec!["orders".to_owned()];
    let request = WatchDriftRequest { tables, initial_rows: true, with_after: true, ..Default::default() };

    let mut orders = BTreeMap::new();
    let mut watch = client.watch(request.clone());
    loop {
        let event = match watch.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            // The missing commits were compacted, or the database was restored: start over.
            Err(status) if matches!(reason(&status).as_deref(), Some("BELOW_FLOOR" | "EPOCH_CHANGED")) => {
                watch = client.watch(request.clone());
                continue;
            }
            Err(status) => return Err(status),
        };
        let seq = match event {
            WatchEvent::Opened(_) => {
                orders.clear();
                continue;
            }
            WatchEvent::Rows(batch) => {
                orders.extend(batch.rows.into_iter().map(|row| (row.key, row.document)));
                continue;
            }
            WatchEvent::RowsDone(header) => header.read_seq,
            WatchEvent::Commit(commit) => {
                commit.changes.into_iter().for_each(|change| apply(&mut orders, change));
                commit.seq
            }
            _ => continue,
        };
        println!("as of commit {seq}: {} orders", orders.len());
    }
}

fn apply(orders: &mut BTreeMap<String, Option<Document>>, change: Change) {
    let dropped = || change.payload.as_ref()?.as_json()?.contains(r#""action":"drop""#).then_some(());
    if change.kind() == ChangeKind::Schema {
        if dropped().is_some() {
            orders.clear();
        }
    } else if change.after.is_some() {
        orders.insert(change.key, change.after);
    } else {
        orders.remove(&change.key);
    }
}
