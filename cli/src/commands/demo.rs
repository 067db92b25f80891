//! `demo`: a tour with real daemons on a new directory. It checks every result that it shows.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use driftdb::client::{WatchEvent, Watcher};
use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use serde_json::Value;
use v1::operation::Action;

use crate::args::DemoArgs;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::orders::{SampleOrder, id, order};
use crate::processes::DaemonProcess;
use crate::render::{Printer, ResultItem};
use crate::session;
use crate::shapes::{self, RequestedImages};

/// The number of orders in the tour.
const ORDERS: u64 = 10_000;
/// The number of orders in one commit.
const BATCH: u16 = 500;
/// The order that the tour follows.
const CHOSEN: u64 = 42;

/// How long to wait for a change to arrive. It normally takes milliseconds.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Runs the tour.
pub(crate) async fn run(args: &DemoArgs, out: &mut Printer) -> CliResult {
    // Declared first, so that the directory is removed last, after its daemons have ended.
    let dir = tempfile::Builder::new().prefix("driftdb-demo-").tempdir();
    let mut dir = dir.map_err(|e| Error::io("cannot create a directory for the demo", &e))?;
    dir.disable_cleanup(args.keep);
    let data = dir.path().join("data");

    let writer = DaemonProcess::start("driftdb-writer", &data).await?;
    let reader = DaemonProcess::start("driftdb-reader", &data).await?;
    let database = client(&writer, &reader);
    let mut tour = Tour { out, database, data, writer, reader };
    tour.explain(&format!(
        "A writer ({}) and a reader ({}) serve the directory {}.",
        tour.writer.url(),
        tour.reader.url(),
        tour.data.display()
    ))?;
    let created = tour.load().await?;
    tour.query().await?;
    let patched = tour.change(created).await?;
    tour.travel(created, patched).await?;
    tour.delete().await?;
    tour.snapshot(created).await?;
    let mut tour = tour.restart().await?;
    tour.compact(created, patched).await?;
    tour.watch().await?;
    let Tour { mut writer, mut reader, out, .. } = tour;
    reader.stop().await?;
    writer.stop().await?;
    match args.keep {
        true => out.print_text(&format!(
            "\nDone. The data was kept. To read it: driftctl -d {} sql -e 'SHOW TABLES'\n",
            dir.path().join("data").display()
        )),
        false => out.print_text("\nDone. Every result was checked. The daemons have stopped, and the directory was removed.\nTo start your own database: driftctl dev\n"),
    }
}

fn client(writer: &DaemonProcess, reader: &DaemonProcess) -> DatabaseHandle {
    DatabaseHandle::remote(vec![writer.url().to_owned()], vec![reader.url().to_owned()], None)
}

/// A commit of the tour.
#[derive(Debug, Clone, Copy)]
struct TourCommit {
    seq: u64,
    time: prost_types::Timestamp,
}

struct Tour<'a> {
    out: &'a mut Printer,
    database: DatabaseHandle,
    data: PathBuf,
    writer: DaemonProcess,
    reader: DaemonProcess,
}

impl Tour<'_> {
    /// Explains the next step.
    fn explain(&mut self, text: &str) -> CliResult {
        self.out.print_text(&format!("\n{text}\n"))
    }

    fn echo(&mut self, statement: &str) -> CliResult {
        let prompt = self.out.style().bold(&format!("> {statement}"));
        self.out.print_text(&format!("{prompt}\n"))
    }

    /// Runs a read statement, shows its result and returns it for checking.
    async fn query_and_show(&mut self, statement: &str) -> CliResult<Vec<Value>> {
        self.echo(statement)?;
        let mut found = Vec::new();
        let out = &mut *self.out;
        let mut sink = |answer: ResultItem| {
            let text = match &answer {
                ResultItem::Record(json) => json.clone(),
                ResultItem::Table(table) => shapes::line(table)?,
                ResultItem::Difference(diff) => shapes::line(diff)?,
                ResultItem::Message(_) => "null".to_owned(),
                ResultItem::Columns(_) | ResultItem::Note(_) => return out.print_item(answer),
            };
            let value = serde_json::from_str(&text);
            found
                .push(value.map_err(|e| Error::new(Reason::Internal, format!("a result is not JSON: {e}")))?);
            out.print_item(answer)
        };
        session::run_query(&mut self.database, (statement, RequestedImages::default()), &[], &mut sink)
            .await?;
        self.out.end_result()?;
        Ok(found)
    }

    async fn write(&mut self, statement: &str) -> CliResult<TourCommit> {
        self.echo(statement)?;
        let request =
            v1::WriterServiceExecuteRequest { statement: statement.to_owned(), ..Default::default() };
        let token = self.database.execute(request).await?.token;
        let token = token
            .ok_or_else(|| Error::new(Reason::Internal, "the writer acknowledged a write without a seq"))?;
        Ok(moment(token))
    }

    async fn load(&mut self) -> CliResult<TourCommit> {
        self.explain("Create a table with a primary key and two indexed fields:")?;
        let mut last = self.write("CREATE TABLE orders (pk=id, INDEX(status, customer_id))").await?;
        let began = Instant::now();
        for first in (0..ORDERS).step_by(BATCH.into()) {
            let operations =
                (first..first + u64::from(BATCH)).map(|number| insert(&order(number, 0))).collect();
            let request = v1::ApplyRequest { operations, ..Default::default() };
            last = moment(self.database.apply(request).await?);
        }
        let took = began.elapsed();
        let rate = ORDERS as f64 / took.as_secs_f64();
        self.explain(&format!(
            "Inserted {ORDERS} orders in {} commits, each on disk before it was acknowledged: {} ms, {rate:.0} orders per second.",
            ORDERS / u64::from(BATCH),
            took.as_millis()
        ))?;
        let counted = self.query_and_show("SELECT COUNT(*) FROM orders").await?;
        expect("the count", counted == [serde_json::json!({"count": ORDERS})])?;
        // So that the next commits have a later time, and AS OF a time can tell them apart.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(last)
    }

    async fn query(&mut self) -> CliResult {
        self.explain("Query an indexed field:")?;
        let customer = order(CHOSEN, 0).customer;
        let statement =
            format!("SELECT id, customer_id, status, amount FROM orders WHERE customer_id = \"{customer}\"");
        let found = self.query_and_show(&statement).await?;
        let expected: Vec<String> =
            (0..ORDERS).map(|n| order(n, 0)).filter(|o| o.customer == customer).map(|o| o.id).collect();
        expect("the orders of a customer", texts(&found, "id") == expected)
    }

    async fn change(&mut self, created: TourCommit) -> CliResult<TourCommit> {
        let key = id(CHOSEN);
        self.explain("Patch a row. Its older versions are kept:")?;
        self.write(&format!("PATCH orders KEY \"{key}\" SET {{\"status\": \"paid\"}}")).await?;
        let patched = self
            .write(&format!(
                "PATCH orders KEY \"{key}\" SET {{\"status\": \"shipped\", \"carrier\": \"Pigeon Post\"}}"
            ))
            .await?;
        expect("two commits", patched.seq == created.seq + 2)?;
        let found = self.query_and_show(&status_of(&key, "")).await?;
        expect("the row now", texts(&found, "status") == ["shipped"])?;
        Ok(patched)
    }

    async fn travel(&mut self, created: TourCommit, patched: TourCommit) -> CliResult {
        let key = id(CHOSEN);
        let original = order(CHOSEN, 0).status;
        self.explain("Read the row as it was before the patches, by seq and by time:")?;
        let by_seq =
            self.query_and_show(&status_of(&key, &format!(" AS OF \"@seq:{}\"", created.seq))).await?;
        expect("the row before, by seq", texts(&by_seq, "status") == [original])?;
        let time = shapes::time(Some(&created.time))?;
        let by_time = self.query_and_show(&status_of(&key, &format!(" AS OF \"{time}\""))).await?;
        expect("the row before, by time", by_time == by_seq)?;

        self.explain("Show its drift: every event of the row, with its commit and time:")?;
        let drift = self.query_and_show(&format!("SHOW DRIFT orders KEY \"{key}\"")).await?;
        expect("the drift", texts(&drift, "kind") == ["insert", "patch", "patch"])?;

        self.explain("Show the net difference of the whole table between the two commits:")?;
        let diff = self
            .query_and_show(&format!("SHOW DIFF orders FROM @seq:{} TO @seq:{}", created.seq, patched.seq))
            .await?;
        let changed = diff.first().and_then(|row| row.pointer("/after/status")).and_then(Value::as_str);
        expect("the difference", texts(&diff, "key") == [key] && changed == Some("shipped"))
    }

    async fn delete(&mut self) -> CliResult {
        let key = id(CHOSEN);
        self.explain("Delete the row. It stays readable at earlier points in time:")?;
        let deleted = self.write(&format!("SOFT DELETE FROM orders KEY \"{key}\"")).await?;
        let found = self.query_and_show(&format!("SELECT COUNT(*) FROM orders WHERE id = \"{key}\"")).await?;
        expect("no row now", found == [serde_json::json!({"count": 0})])?;
        let before = format!(" AS OF \"@seq:{}\"", deleted.seq - 1);
        let found = self.query_and_show(&status_of(&key, &before)).await?;
        expect("the deleted row", texts(&found, "status") == ["shipped"])
    }

    /// Runs a maintenance statement and shows its messages.
    async fn maintain(&mut self, statement: &str) -> CliResult {
        self.echo(statement)?;
        let messages = RefCell::new(Vec::new());
        let request =
            v1::WriterServiceExecuteRequest { statement: statement.to_owned(), ..Default::default() };
        self.database.execute_with_messages(request, |message| messages.borrow_mut().push(message)).await?;
        for message in messages.into_inner() {
            self.out.print_text(&format!("{message}\n"))?;
        }
        Ok(())
    }

    async fn snapshot(&mut self, created: TourCommit) -> CliResult {
        self.explain(
                        "Take a snapshot. Snapshots are also taken in the background; with them, queries do not need to read the log:",
        )?;
        self.maintain("SNAPSHOT orders").await?;
        let customer = order(CHOSEN, 0).customer;
        let plan = format!(
            "EXPLAIN SELECT * FROM orders WHERE customer_id = \"{customer}\" AS OF \"@seq:{}\"",
            created.seq
        );
        self.query_and_show(&plan).await?;
        let key = id(CHOSEN);
        let before =
            self.query_and_show(&status_of(&key, &format!(" AS OF \"@seq:{}\"", created.seq))).await?;
        expect("the row before the snapshot", texts(&before, "status") == [order(CHOSEN, 0).status])
    }

    async fn compact(&mut self, created: TourCommit, patched: TourCommit) -> CliResult {
        self.explain(
                        "Compact the table. History is kept forever unless you compact it, which merges old events into rows:",
        )?;
        self.maintain(&format!("COMPACT orders BEFORE \"@seq:{}\"", patched.seq)).await?;
        let key = id(CHOSEN);
        let kept = self.query_and_show(&status_of(&key, &format!(" AS OF \"@seq:{}\"", patched.seq))).await?;
        expect("the row at the floor", texts(&kept, "status") == ["shipped"])?;
        let gone = self.query_and_show(&status_of(&key, &format!(" AS OF \"@seq:{}\"", created.seq))).await;
        let refused = match gone {
            Err(Failure::Database(error) | Failure::Statement { error, .. }) => error,
            _ => return expect("the error below the floor", false),
        };
        self.out.print_text(&format!("{refused}\n"))?;
        expect("the reason of the error below the floor", refused.reason() == Reason::BelowFloor)
    }

    /// Watches a change that is made meanwhile.
    async fn watch(&mut self) -> CliResult {
        self.explain("Watch the table. Each commit arrives once and whole, even if connections break:")?;
        self.echo("driftctl watch -t orders --where 'status = \"returned\"' --with-before --with-after")?;
        let request = v1::WatchDriftRequest {
            tables: vec!["orders".to_owned()],
            r#where: "status = \"returned\"".to_owned(),
            with_before: true,
            with_after: true,
            ..Default::default()
        };
        let mut watch = self.database.fresh_client().await?.watch(request);
        let mut watched = watch_next(&mut watch).await?;
        expect("the beginning of a watch", matches!(watched, WatchEvent::Opened(_)))?;
        let key = id(CHOSEN);
        let passed_over = id(CHOSEN + 1);
        self.write(&format!("PATCH orders KEY \"{passed_over}\" SET {{\"status\": \"paid\"}}")).await?;
        let written =
            self.write(&format!("PATCH orders KEY \"{key}\" SET {{\"status\": \"returned\"}}")).await?;
        let commit = loop {
            match watched {
                WatchEvent::Commit(commit) => break commit,
                _ => watched = watch_next(&mut watch).await?,
            }
        };
        let events = shapes::events(commit, RequestedImages { before: true, after: true })?;
        events.iter().try_for_each(|event| self.out.print_event(event))?;
        let found: Vec<_> = events.iter().map(|event| (event.seq, event.key.as_str())).collect();
        expect("what was watched", found == [(written.seq, key.as_str())])
    }

    /// Reads without a writer, then continues with a new one.
    async fn restart(mut self) -> CliResult<Self> {
        self.explain("Stop the writer. Readers read the files, so they continue without it:")?;
        self.writer.stop().await?;
        // No writer is running, so do not ask it how fresh reads must be.
        self.database = self.database.stale(true);
        let counted = self.query_and_show("SELECT COUNT(*) FROM orders").await?;
        expect("the count without a writer", counted == [serde_json::json!({"count": ORDERS - 1})])?;

        self.writer = DaemonProcess::start("driftdb-writer", &self.data).await?;
        self.database = client(&self.writer, &self.reader);
        self.explain("Start the writer again. It continues after its last commit:")?;
        let inserted = order(CHOSEN, 1).json();
        self.write(&format!("INSERT INTO orders {inserted}")).await?;
        let counted = self.query_and_show("SELECT COUNT(*) FROM orders").await?;
        expect("the count at the end", counted == [serde_json::json!({"count": ORDERS})])?;
        let drift = self.query_and_show(&format!("SHOW DRIFT orders KEY \"{}\"", id(CHOSEN))).await?;
        let kinds = ["insert", "patch", "patch", "soft_delete", "insert"];
        expect("the drift at the end", texts(&drift, "kind") == kinds)?;
        Ok(self)
    }
}

async fn watch_next(watch: &mut Watcher) -> CliResult<WatchEvent> {
    let event = tokio::time::timeout(ARRIVAL, watch.next()).await;
    let event = event.map_err(|_| Error::new(Reason::Internal, "a change did not arrive at the watch"))?;
    Ok(event?.ok_or_else(|| Error::new(Reason::Internal, "a watch ended unexpectedly"))?)
}

fn moment(token: v1::WriteToken) -> TourCommit {
    TourCommit { seq: token.seq, time: token.time.unwrap_or_default() }
}

fn insert(order: &SampleOrder) -> v1::Operation {
    let document = v1::Document { body: Some(v1::document::Body::Json(order.json())) };
    v1::Operation { table: "orders".to_owned(), key: String::new(), action: Some(Action::Insert(document)) }
}

fn status_of(key: &str, as_of: &str) -> String {
    format!("SELECT id, status, carrier FROM orders WHERE id = \"{key}\"{as_of}")
}

fn texts(rows: &[Value], field: &str) -> Vec<String> {
    rows.iter().filter_map(|row| row.get(field)?.as_str()).map(str::to_owned).collect()
}

/// Fails if a result is wrong, so that the tour never shows one.
fn expect(what: &str, holds: bool) -> CliResult {
    if holds {
        return Ok(());
    }
    Err(Error::new(Reason::Internal, format!("the demo got a wrong result: {what}")).into())
}
