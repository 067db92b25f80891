//! A follower discovers tables, and forgets those whose creation failed.

use driftdb_common::format::manifest::{self, Manifest, Segment};
use driftdb_common::storage::fs;
use driftdb_common::storage::fs::sim::SimDisk;

use crate::follower::Follower;
use crate::follower::test_log::{create, dir, files, open};

/// Leaves what a writer leaves that crashes while it creates a table: a manifest and an empty segment.
fn begin_to_create(disk: &SimDisk, seq: u64, table: &str) {
    let shared = disk.shared();
    shared.create_dir(&dir().segments(table)).unwrap();
    shared.create(&dir().segment(table, 1)).unwrap().write_at(&[0; 64], 0).unwrap();
    let segments = vec![Segment { number: 1, sealed: None }];
    let (table_id, version, term, published) = (seq, 1, 1, seq - 1);
    let manifest = Manifest {
        table: table.into(),
        name: None,
        table_id,
        version,
        term,
        published,
        published_ms: 0,
        floor: None,
        deltas: Vec::new(),
        images: Vec::new(),
        segments,
    };
    fs::replace(&*shared, &dir().manifest(table), &manifest::encode(&manifest).unwrap()).unwrap();
}

/// A reader has seen the directory of a table whose creation failed. The id of that table, or its name, is used again.
#[test]
fn a_table_whose_creation_failed_is_forgotten() {
    for (third, fourth) in [("other", "lost"), ("lost", "other"), ("other", "another")] {
        let disk = SimDisk::new();
        let mut log = open(&disk);
        create(&mut log, 1, "first");
        let mut follower = Follower::open(files(&disk)).unwrap();
        follower.check_head().unwrap();
        create(&mut log, 2, "second");
        begin_to_create(&disk, 3, "lost");
        follower.check_head().unwrap();
        drop(log);

        let mut log = open(&disk);
        create(&mut log, 3, third);
        follower.check_head().unwrap();
        create(&mut log, 4, fourth);
        follower.check_head().unwrap();
        let applied = follower.replica().applied();
        assert_eq!(applied.seq, 4);
        let mut names = vec!["first", "second", third, fourth];
        names.sort_unstable();
        assert!(applied.tables.keys().eq(names), "{:?}", applied.tables.keys());
    }
}
