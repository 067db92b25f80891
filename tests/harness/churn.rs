//! A writer kept busy: random commits over tables that come and go, snapshots, compaction.

use std::time::{Duration, Instant};

use driftdb::v1;

use super::*;

/// Writes as a number decides, so that a failure can be had again.
pub struct Churn {
    pub writer: Writer,
    random: u64,
    /// The tables, in the order of their creation, with the floors that compaction has given them.
    pub tables: Vec<(String, u64)>,
    /// The last commit.
    pub seq: u64,
}

impl Churn {
    pub async fn start(writer: Writer, seed: u64) -> Churn {
        let mut churn = Churn { writer, random: seed, tables: Vec::new(), seq: 0 };
        churn.create().await;
        churn
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// Another table, with an index.
    pub async fn create(&mut self) {
        let name = format!("t{}", self.tables.len());
        let statement = format!("CREATE TABLE {name} (pk=id, INDEX(status))");
        self.seq = calls::run(&mut self.writer, &statement).await.unwrap().seq;
        self.tables.push((name, 0));
    }

    /// So many commits, each over one table or several.
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
        let request = v1::SnapshotRequest { table: self.tables[table].0.clone() };
        let mut answers = self.writer.snapshot(request).await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
    }

    /// Lets go of what lies before a commit.
    pub async fn compact(&mut self, table: usize, before: u64) {
        let request = v1::CompactRequest {
            table: self.tables[table].0.clone(),
            before: at_seq(before),
            dry_run: false,
        };
        let mut answers = self.writer.compact(request).await.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            if let Some(v1::compact_response::Event::Compaction(info)) = answer.event {
                self.tables[table].1 = info.floor_seq;
            }
        }
    }

    /// Waits until a reader has applied everything and knows of every floor.
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

/// Two readers say the same, to the byte, of every table at some moments. How many answers were compared.
pub async fn compare(churn: &Churn, readers: [&mut Reader; 2], moments: impl Iterator<Item = u64>) -> usize {
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
