//! A table with every kind of storage: delta layers, an image layer, and a memtable with the newest events.

use std::path::PathBuf;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, Event, EventMarks, EventType};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::recovery::{self, Replay};
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{Group, Log, LogOptions};
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::table::build::delta::{self, DeltaLimits};
use driftdb_common::table::build::image;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;

pub const TABLE: &str = "orders";
/// The rows; each has as many versions.
pub const ROWS: u64 = 5000;
pub const VERSIONS: u64 = 3;
const CUSTOMERS: u64 = 10;
const STATUSES: [&str; 5] = ["pending", "paid", "shipped", "cancelled", "refunded"];
/// The commits after which there is a delta layer, and an image layer.
const DELTAS: [u64; 2] = [8001, 12_001];
const IMAGE: u64 = DELTAS[0];

/// A well-spread number of a number (the finisher of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

pub fn key(row: u64) -> Key {
    Key::Str(format!("ORD-{:06}", row % ROWS).as_str().into())
}

pub fn json(row: u64, version: u64) -> String {
    let (customer, status) = (mix(row + 1) % CUSTOMERS, mix(row * 31 + version + 7) % STATUSES.len() as u64);
    let status = STATUSES.get(usize::try_from(status).unwrap_or_default()).unwrap_or(&"paid");
    let note = "order leave parcel behind green door call before noon fragile gift wrap please north gate ring twice now";
    format!(
        r#"{{"id":"ORD-{row:06}","customer_id":"CUST-{customer:04}","status":"{status}","amount":{}.25,"note":"{note}"}}"#,
        mix(row) % 1000
    )
}

/// The event of a commit, from the second one on.
pub fn event_of(seq: u64) -> (Key, Document) {
    let (row, version) = ((seq * 3011) % ROWS, seq / ROWS);
    (key(row), Document::from_json(&json(row, version)).expect("a document"))
}

pub fn insert(seq: u64) -> Event {
    let (key, document) = event_of(seq);
    Event {
        kind: EventType::Insert,
        key: Some(key),
        document: Some(document),
        marks: EventMarks::from(true),
        shape: CommitShape::SINGLE,
        meta: None,
        published: None,
    }
}

pub fn info(seq: u64) -> Arc<CommitInfo> {
    Arc::new(CommitInfo { seq, time_ms: 1_700_000_000_000 + seq, meta: None })
}

struct Nothing;

impl Replay for Nothing {
    fn replay_table(&mut self, _: &Manifest) -> Result<()> {
        Ok(())
    }

    fn replay_commit(&mut self, _: LogCommit) -> Result<()> {
        Ok(())
    }
}

/// A table in a directory of its own, which is removed in the end.
pub struct Store {
    path: PathBuf,
    pub timeline: Arc<Timeline>,
}

impl Drop for Store {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "the directory is the benchmark's own")]
        std::fs::remove_dir_all(&self.path).expect("the directory can be removed");
    }
}

impl Store {
    /// The table, with some indexes.
    pub fn new(indexes: &[&str]) -> Store {
        let path = std::env::temp_dir().join(format!("driftdb-counts-{}", std::process::id()));
        let dir = DataDir::new(&path);
        let fs = OsFileSystem::shared();
        let options = LogOptions { background: false, ..LogOptions::default() };
        let mut log = recovery::open(Arc::clone(&fs), &dir, options, &mut Nothing).expect("a new database");
        let files = TableFiles { fs, dir, cache: BlockCache::new(256 << 20) };
        let indexes: Vec<String> = indexes.iter().map(|index| (*index).to_owned()).collect();
        write(&mut log, &indexes);
        let (layers, last) = (take_snapshots(&mut log, &files, &indexes), log.published().0);
        let timeline = Timeline::open(1, TABLE, layers).expect("the table");
        for seq in DELTAS[1] + 1..=last {
            timeline.apply(&info(seq), vec![insert(seq)]).expect("an event");
        }
        log.close().expect("the database is closed");
        Store { path, timeline: Arc::new(timeline) }
    }

    /// The newest state.
    pub fn now(&self) -> View {
        self.at(ROWS * VERSIONS)
    }

    /// The state after a commit that only layers hold.
    pub fn before(&self) -> View {
        self.at(DELTAS[1] - 1)
    }

    fn at(&self, seq: u64) -> View {
        View::at(&self.timeline, seq).expect("the state after a commit")
    }
}

fn write(log: &mut Log, indexes: &[String]) {
    let schema = Schema {
        table: TABLE.to_owned(),
        primary_key: "id".to_owned(),
        key_type: KeyType::String,
        indexes: indexes.to_vec(),
        retain_ms: None,
        auto_key: false,
    };
    let created = SchemaEvent::new(SchemaAction::Create, schema).to_document().expect("a schema");
    let meta = CommitMeta::default();
    let commits: Vec<u64> = (1..=ROWS * VERSIONS).collect();
    for seqs in commits.chunks(1000) {
        let mut group = Group::default();
        for seq in seqs {
            let time_ms = info(*seq).time_ms;
            (group.last_seq, group.last_ms) = (*seq, time_ms);
            let (kind, key, document) = match seq {
                1 => (EventType::Schema, None, created.clone()),
                seq => {
                    let (key, document) = event_of(*seq);
                    (EventType::Insert, Some(key), document)
                }
            };
            if *seq == 1 {
                group.created.push((1, TABLE.to_owned()));
            }
            let table = group.tables.entry(1).or_default();
            let is_first = table.frames.is_empty();
            table.last_seq = *seq;
            table.frames.push(*seq, time_ms, kind, |out| {
                let first = Some((CommitShape::SINGLE, &meta));
                event::encode(out, key.as_ref(), Some(&document), false, first, is_first)
            });
        }
        assert!(log.append(&mut group).is_ok(), "commits can be written");
    }
}

fn take_snapshots(log: &mut Log, files: &TableFiles, indexes: &[String]) -> LayerMap {
    let mut layers = LayerMap::default();
    for end in DELTAS {
        let manifest = log.manifest(1).expect("the table's manifest").clone();
        let entry = *log.table_entry(1).expect("the table's entry in HEAD");
        let reach = ReadLimit { segment: entry.segment, bytes: entry.bytes, seq: end };
        let limits = DeltaLimits { events: end - layers.end(), bytes: u64::MAX };
        let built = delta::build_next(files, &manifest, &layers, reach, limits, &|_| Ok(()));
        let built = built.expect("a delta layer").expect("new events");
        edit(log, &mut |manifest| manifest.deltas.push(built.layer.clone()));
        layers = files.open(log.manifest(1).expect("the manifest"), Some(&layers)).expect("the layers");
        assert_eq!(layers.end(), end);
        if end == IMAGE {
            let image = image::build(files, (TABLE, 1), &layers, end, indexes, &|_| Ok(()));
            let image = image.expect("an image layer");
            edit(log, &mut |manifest| manifest.images.push(image.clone()));
            layers = files.open(log.manifest(1).expect("the manifest"), Some(&layers)).expect("the layers");
        }
    }
    layers
}

fn edit(log: &mut Log, change: &mut dyn FnMut(&mut Manifest)) {
    let edited = log.edit_manifest(1, &mut |manifest| {
        change(manifest);
        Ok(())
    });
    assert!(edited.is_ok(), "the manifest can be replaced");
}
