//! Rows with more versions than a scan reads one by one, in snapshots and after them: scans and lookups agree with the
//! written history at every commit.

use std::collections::BTreeMap;

use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json as value};

/// The expected rows after each commit.
struct Written {
    writer: Writer,
    now: BTreeMap<String, Value>,
    /// By seq.
    then: BTreeMap<u64, BTreeMap<String, Value>>,
}

impl Written {
    async fn put(&mut self, key: &str, document: Value) {
        let seq = apply(&mut self.writer, vec![put("t", document.to_string())]).await.unwrap().seq;
        self.now.insert(key.to_owned(), document);
        self.then.insert(seq, self.now.clone());
    }

    async fn patch(&mut self, key: &str, field: &str, number: u64) {
        let change = value!({ field: number });
        let seq = apply(&mut self.writer, vec![patch("t", key, change.to_string())]).await.unwrap().seq;
        self.now.get_mut(key).unwrap()[field] = number.into();
        self.then.insert(seq, self.now.clone());
    }

    async fn delete(&mut self, key: &str) {
        let seq = apply(&mut self.writer, vec![delete("t", key)]).await.unwrap().seq;
        self.now.remove(key);
        self.then.insert(seq, self.now.clone());
    }

    async fn snapshot(&mut self) {
        calls::snapshot(&mut self.writer, "t").await.unwrap();
    }

    async fn check(&self, reader: &mut Reader) {
        for (seq, rows) in &self.then {
            let found = select_at(reader, "t", *seq).await.unwrap();
            let found: BTreeMap<String, Value> =
                found.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
            assert_eq!(&found, rows, "the scan at seq {seq} differs");
            let keys = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
            let request =
                v1::GetRequest { table: "t".into(), keys, as_of: at_seq(*seq), ..Default::default() };
            let got = reader.get(request).await.unwrap().into_inner().rows;
            let got: BTreeMap<String, Value> = got
                .into_iter()
                .map(|row| (row.key, serde_json::from_str(text_of(&row.document.unwrap())).unwrap()))
                .collect();
            assert_eq!(&got, rows, "the rows at seq {seq}");
        }
    }
}

#[tokio::test]
async fn scans_and_lookups_agree_on_rows_with_many_versions() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let mut written = Written { writer: cluster.writer.clone(), now: BTreeMap::new(), then: BTreeMap::new() };
    // Patches are small beside this field, so few versions hold the whole row.
    let whole = |key: &str, life: u64| value!({ "id": key, "pad": "x".repeat(2000), "life": life });
    written.put("a", whole("a", 1)).await;
    written.put("b", whole("b", 1)).await;
    for (number, field) in (0..70).zip(["n", "m", "o"].into_iter().cycle()) {
        written.patch("a", field, number).await;
        if number % 9 == 0 {
            written.patch("b", "n", number).await;
        }
    }
    written.snapshot().await;
    for number in 0..20 {
        written.patch("a", "p", number).await;
    }
    written.delete("a").await;
    written.put("c", whole("c", 1)).await;
    written.put("a", whole("a", 2)).await;
    for number in 0..50 {
        written.patch("a", "n", number).await;
    }
    written.snapshot().await;
    for (number, key) in (0..40).zip(["a", "b"].into_iter().cycle()) {
        written.patch(key, "q", number).await;
    }
    written.snapshot().await;
    for (number, key) in (0..6).zip(["a", "b"].into_iter().cycle()) {
        written.patch(key, "tail", number).await;
    }
    written.check(&mut cluster.reader).await;
    // A new reader: it has only the tail in memory.
    let fresh = Daemon::reader(cluster.dir.path());
    written.check(&mut fresh.as_reader().await).await;
}
