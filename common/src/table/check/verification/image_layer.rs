//! Compares an image layer with the rows that the delta layers before it produce.

use crate::error::Result;
use crate::format::snapshot::{RowEntry, tree};
use crate::table::check::verification::describe;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::layers::LayerFile;
use crate::table::layers::LayerMap;
use crate::table::row_fold::RowVersion;

/// Compares the image layer `image` with the rows after commit `seq` in `layers`, which must not contain that layer.
pub(super) fn compare(
    layers: &LayerMap,
    seq: u64,
    created_at: Option<u64>,
    image: &LayerFile,
    reporter: &mut ProblemReporter<'_>,
) -> Result<()> {
    let path = image.file.path();
    let mut cursor = image.file.cursor(tree::ROWS);
    cursor.first()?;
    let mut scan = layers.scan(seq, &[])?;
    while let Some(key) = scan.key() {
        reporter.step()?;
        let row = scan.take(&key)?.filter(|row| created_at.is_some_and(|created_at| row.seq >= created_at));
        let Some(RowVersion { seq, time_ms, document: Some(document) }) = row else { continue };
        while let Some(extra) = cursor.key().filter(|found| **found < *key) {
            reporter.report(path, 0, describe_extra(extra, seq));
            cursor.next()?;
        }
        let Some(value) = cursor.value().filter(|_| cursor.key() == Some(&key)) else {
            reporter.report(path, 0, format!("{} is missing", describe::row(&key)));
            continue;
        };
        let found = RowEntry::decode(&value)?;
        if (found.seq, found.time_ms) != (seq, time_ms) {
            let found = (found.seq, found.time_ms);
            let what = describe::row_commit_difference(&key, found, (seq, time_ms));
            reporter.report(path, 0, what);
        } else if found.document != document {
            reporter.report(path, 0, format!("the document of {} differs from the log", describe::row(&key)));
        }
        cursor.next()?;
    }
    while let Some(extra) = cursor.key() {
        reporter.report(path, 0, describe_extra(extra, seq));
        cursor.next()?;
    }
    Ok(())
}

fn describe_extra(key: &[u8], seq: u64) -> String {
    format!("{} does not exist after commit {seq} in the log", describe::row(key))
}
