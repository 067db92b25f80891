//! The folders in a bucket in which `bench` measures.

use bytes::Bytes;
use driftdb_common::bucket::fencing::IDENTITY;
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Result;
use uuid::Uuid;

use crate::commands::backup::bucket_work::on_thread;

/// The folders of a database in a bucket.
const FOLDERS: [&str; 3] = ["log", "files", "kept"];

/// Folders that no other has, with a database for each side.
pub(super) struct BenchFolder {
    bucket: String,
    /// The start of the names of the folders.
    name: String,
}

impl BenchFolder {
    /// Folders below a URL.
    pub(super) fn new(url: &str) -> BenchFolder {
        let name = format!("driftdb-bench-{}", Uuid::new_v4().simple());
        BenchFolder { bucket: url.trim_end_matches('/').to_owned(), name }
    }

    /// Writes and removes one object: what cannot be measured here fails before the minutes of a load.
    pub(super) async fn check(&self) -> Result<()> {
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        on_thread("the first write", move || {
            let store = BucketStore::open(&bucket)?;
            store.create(&name, &Bytes::from_static(b"driftctl bench"), store.persistence())?;
            store.delete(&name)
        })
        .await
    }

    /// The URL of a side's database.
    pub(super) fn of(&self, side: &str) -> String {
        // Beside each other: a bucket that is a directory is created in one that exists.
        format!("{}/{}-{side}", self.bucket, self.name)
    }

    /// Removes all objects of some sides.
    pub(super) async fn remove(&self, sides: &[&str]) -> Result<()> {
        let urls: Vec<String> = sides.iter().map(|side| self.of(side)).collect();
        on_thread("the removal of the objects", move || urls.iter().try_for_each(|url| remove_all(url))).await
    }
}

fn remove_all(url: &str) -> Result<()> {
    let store = BucketStore::open(url)?;
    for folder in FOLDERS {
        for object in store.list(folder)? {
            store.delete(&object.name)?;
        }
    }
    store.delete(IDENTITY)
}

/// The number of objects that are files of their own.
pub(super) async fn count_files(url: &str) -> Result<usize> {
    let url = url.to_owned();
    on_thread("the listing", move || Ok(BucketStore::open(&url)?.list("files")?.len())).await
}
