//! A busy writer: random commits over a growing number of tables, snapshots and compactions.

use std::time::{Duration, Instant};

use driftdb::v1;

use super::condition::Random;
use super::*;

/// Chooses its commits by a seed, so that a failure can be repeated.
pub struct RandomWriter {
    pub writer: Writer,
    random: Random,
    /// The tables in the order of their creation, each with the floor that compaction gave it.
    pub tables: Vec<(String, u64)>,
    /// The newest commit.
    pub seq: u64,
}

impl RandomWriter {
    pub async fn start(writer: Writer, seed: u64) -> RandomWriter {
        let mut churn = RandomWriter { writer, random: Random(seed), tables: Vec::new(), seq: 0 };
        churn.create().await;
        churn
    }

    fn next(&mut self, below: u64) -> u64 {
        (self.random.next() >> 33) % below
    }

    /// Creates one more table, with an index.
    pub async fn create(&mut self) {
        let name = format!("t{}", self.tables.len());
        let statement = format!("CREATE TABLE {name} (pk=id, INDEX(status))");
        self.seq = calls::run(&mut self.writer, &statement).await.unwrap().seq;
        self.tables.push((name, 0));
    }

    /// Writes commits, each over one table or several.
    pub async fn commits(&mut self, number: u64) {
        for _ in 0..number {
            let mut operations = Vec::new();
            for _ in 0..=self.next(3) {
                let pick = usize::try_from(self.next(self.tables.len() as u64)).unwrap();
                let (table, n) = (self.tables[pick].0.clone(), self.next(1000));
                let (key, pad) = (format!("k{:02}", n % transcript::KEYS), usize::try_from(n % 200).unwrap());
                let row =
                    format!(r#"{{"id":"{key}","n":{n},"status":"s{}","pad":"{}"}}"#, n % 4, "x".repeat(pad));
                operations.push(put(&table, row));
                match self.next(8) {
                    0 => operations.push(delete(&table, &key)),
                    1..=3 => operations.push(patch(&table, &key, format!(r#"{{"status":"p{}"}}"#, n % 3))),
                    _ => {}
                }
            }
            self.seq = apply(&mut self.writer, operations).await.unwrap().seq;
        }
    }

    pub async fn snapshot(&mut self, table: usize) {
        calls::snapshot(&mut self.writer, &self.tables[table].0).await.unwrap();
    }

    /// Discards a table's history before a commit.
    pub async fn compact(&mut self, table: usize, before: u64) {
        let (name, floor) = &mut self.tables[table];
        *floor = calls::compact(&mut self.writer, name, at_seq(before), false).await.unwrap().floor_seq;
    }

    /// Waits until a reader has applied every commit and knows every floor.
    pub async fn wait_for(&self, reader: &mut Reader) {
        let deadline = Instant::now() + Duration::from_secs(120);
        for (table, floor) in &self.tables {
            loop {
                let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
                let freshness = Some(v1::Freshness { min_seq: self.seq, wait, ..Default::default() });
                let request =
                    v1::DescribeTableRequest { table: table.clone(), freshness, ..Default::default() };
                let found = reader.describe_table(request).await.unwrap().into_inner().table.unwrap();
                if found.floor_seq == *floor {
                    break;
                }
                assert!(Instant::now() < deadline, "{table}: {} is not the floor {floor}", found.floor_seq);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Checks that two readers give the same answers, byte by byte, about every table at some commits. Returns the number
/// of answers compared.
pub async fn compare(
    churn: &RandomWriter,
    readers: [&mut Reader; 2],
    moments: impl Iterator<Item = u64>,
) -> usize {
    let [one, other] = readers;
    churn.wait_for(one).await;
    churn.wait_for(other).await;
    let mut compared = 0;
    for seq in moments {
        for (table, _) in &churn.tables {
            let told = transcript::transcript(one, table, seq).await;
            for (one, other) in told.iter().zip(transcript::transcript(other, table, seq).await) {
                if *one != other {
                    let [one, other] = [one, &other].map(|(ask, told)| (ask, String::from_utf8_lossy(told)));
                    panic!("{table} at {seq}: two readers differ\n{one:?}\n{other:?}");
                }
                compared += 1;
            }
        }
    }
    compared
}
