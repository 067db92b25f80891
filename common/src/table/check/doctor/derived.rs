//! What the doctor says of files that can be made anew: snapshots, indexes, leftovers.

use std::path::PathBuf;

use super::{Derived, Exam};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::layout::{head_tmp_term, snapshot_files};
use crate::storage::sst::BlockCache;
use crate::table::check::verification::{Positions, Problem, ProblemList, open_files};
use crate::table::table_files::TableFiles;

/// Blocks kept in memory meanwhile.
const CACHE_BYTES: u64 = 8 << 20;
const LET_GO: &str = "let go of it with driftctl doctor --repair: the next writer makes it anew from the log";
const REMOVE: &str = "it means nothing: driftctl doctor --repair removes it";

impl Exam<'_> {
    /// Reads a table's snapshots and indexes.
    pub(super) fn derived(&mut self, manifest: &Manifest, mut positions: Positions<'_>) -> Result<()> {
        let shelf = TableFiles {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            cache: BlockCache::new(CACHE_BYTES),
        };
        let mut problems = Vec::new();
        let mut take = |problem| problems.push(problem);
        let mut report = ProblemList::new(&|_| Ok(()), &mut take);
        let files = open_files(&shelf, manifest, &mut report)?;
        self.summary.files += report.figures.files;
        for Problem { file, offset, message } in problems {
            self.damage(&PathBuf::from(file), offset, message, LET_GO);
        }
        // Where segments are damaged, so may be the places that eras end at.
        let mut misplaced = positions.take_wrong();
        if !self.wounds.segments.contains(&manifest.table) {
            misplaced.extend(positions.missed());
        }
        let path = self.dir.manifest(&manifest.table);
        for (_, what) in &misplaced {
            self.damage(&path, 0, what.clone(), LET_GO);
        }
        let sound = |snapshot: &Option<_>, paths: &[String]| {
            snapshot.as_ref().is_some_and(|open: &crate::table::table_files::LayerFile| {
                paths.iter().all(|path| open.index(path).is_some())
            })
        };
        let deltas = manifest.deltas.iter().zip(&files.deltas).all(|(era, open)| sound(open, &era.indexes));
        let images = manifest.images.iter().zip(&files.images).all(|(full, open)| sound(open, &full.indexes));
        if !(deltas && images && misplaced.is_empty()) {
            let misplaced = misplaced.into_iter().map(|(seq, _)| seq).collect();
            self.wounds.derived.push(Derived { manifest: manifest.clone(), files, misplaced });
        }
        self.unlisted(manifest)
    }

    /// Snapshots and indexes that the manifest does not name, and files that were not finished.
    fn unlisted(&mut self, manifest: &Manifest) -> Result<()> {
        let name = &manifest.table;
        let named = snapshot_files(self.dir, manifest);
        for (dir, own) in [(self.dir.snapshots(name), ".snap"), (self.dir.indexes(name), ".idx")] {
            for file in self.list(&dir)? {
                let path = dir.join(&file);
                if [own, ".tmp", ".run"].iter().any(|end| file.ends_with(end)) && !named.contains(&path) {
                    self.leftover(path, "a snapshot or index that meta.json does not name");
                }
            }
        }
        let dir = self.dir.table(name);
        for file in self.list(&dir)?.into_iter().filter(|file| file.ends_with(".tmp")) {
            self.leftover(dir.join(file), "a file that was never finished");
        }
        Ok(())
    }

    /// Files beside HEAD that were not finished.
    pub(super) fn leftovers(&mut self) -> Result<()> {
        for file in self.list(self.dir.root())? {
            if ["HEAD.tmp", "database.tmp"].contains(&file.as_str()) || head_tmp_term(&file).is_some() {
                self.leftover(self.dir.root().join(file), "a file that was never finished");
            }
        }
        Ok(())
    }

    fn leftover(&mut self, path: PathBuf, what: &str) {
        self.note(&path, what, REMOVE);
        self.wounds.leftovers.push(path);
    }
}
