//! Refuses to create a database in a directory that holds the files of something else.

use std::io;

use crate::error::{Error, Reason, Result};
use crate::storage::fs::FileSystem;
use crate::storage::layout::{self, DataDir, TMP};

/// How many foreign files an error names.
const NAMED: usize = 3;
/// The names next to `database.json` that DriftDB creates, and the directory that ext4 creates in every file system. A take-over that
/// died before it had written anything has left `mirror.lock`.
const OWN_NAMES: [&str; 8] =
    ["LOCK", "HEAD", "RESERVE", "lineage.json", "clock.json", "tables", "lost+found", "mirror.lock"];
/// How the names of temporary files begin. Each ends with `.tmp`.
const OWN_TEMPORARY: [&str; 6] = ["HEAD.", "RESERVE.", "lineage.", "clock.", "database.", "bucket."];

/// Fails if a directory contains no database and files that no unfinished creation of one can have left. Succeeds if the
/// directory does not exist.
pub fn check_no_foreign_files(fs: &dyn FileSystem, dir: &DataDir) -> Result<()> {
    let names = list(fs, dir, dir.root())?;
    if names.iter().any(|name| name == "database.json") {
        return Ok(());
    }
    let mut foreign: Vec<String> = names.into_iter().filter(|name| !is_own(name)).collect();
    let is_table = |name: &String| layout::is_table_directory(name) || name.contains(".torn.");
    let tables = list(fs, dir, &dir.tables())?.into_iter().filter(|name| !is_table(name));
    foreign.extend(tables.map(|name| format!("tables/{name}")));
    if foreign.is_empty() {
        return Ok(());
    }
    let named = foreign.iter().take(NAMED).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let more = match foreign.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "cannot use {} as a data directory: it contains no database, but other files: {named}{more}; choose an empty \
         directory, or one that does not exist yet",
        dir.root().display()
    );
    Err(Error::new(Reason::ArgumentInvalid, message))
}

/// Fails if a directory is a copy of a bucket that belongs to the reader that made it, or that is not whole: a writer would begin a history
/// in it that the bucket does not have.
pub fn check_no_mirror(fs: &dyn FileSystem, dir: &DataDir) -> Result<()> {
    if !list(fs, dir, dir.root())?.iter().any(|name| name == layout::MIRROR_RECORD) {
        return Ok(());
    }
    let message = format!(
        "{} is the cache of a reader of a bucket, or a writer has died while it filled it: it contains {}; name another directory. A \
         writer with --bucket fills an empty one from the bucket",
        dir.root().display(),
        layout::MIRROR_RECORD
    );
    Err(Error::new(Reason::ArgumentInvalid, message))
}

fn is_own(name: &str) -> bool {
    let is_temporary = name.ends_with(TMP) && OWN_TEMPORARY.iter().any(|begin| name.starts_with(begin));
    OWN_NAMES.contains(&name) || is_temporary
}

/// The names in a directory; none if it does not exist.
fn list(fs: &dyn FileSystem, dir: &DataDir, path: &std::path::Path) -> Result<Vec<String>> {
    match fs.list(path) {
        Ok(names) => Ok(names),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(
            format_args!(
                "cannot use {} as a data directory: cannot list {}",
                dir.root().display(),
                path.display()
            ),
            &e,
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::fs::sim::SimDisk;

    fn checked(files: &[&str]) -> Result<()> {
        let disk = SimDisk::new();
        for file in files {
            disk.shared().create_dir(Path::new("/data").join(file).parent().unwrap()).unwrap();
            disk.put(Path::new("/data").join(file), b"x").unwrap();
        }
        check_no_foreign_files(&*disk.shared(), &DataDir::new("/data"))
    }

    #[test]
    fn what_an_unfinished_creation_leaves_is_not_foreign() {
        for files in [
            &[][..],
            &["LOCK"],
            &["LOCK", "HEAD", "HEAD.1.tmp", "database.tmp", "lost+found/x", "lineage.tmp"],
            &["tables/orders/meta.json"],
            &["database.json", "notes.txt"],
        ] {
            checked(files).unwrap();
        }
    }

    #[test]
    fn foreign_files_are_named() {
        for (files, named) in [
            (&["LOCK", "prices.csv"][..], "\"prices.csv\";"),
            (&["a", "b", "c", "d", "e"], "\"a\", \"b\", \"c\" and 2 more"),
            (&["tables/prices.csv"], "\"tables/prices.csv\""),
            (&[".profile"], "\".profile\""),
            (&["x.tmp"], "\"x.tmp\""),
        ] {
            let error = checked(files).unwrap_err();
            assert_eq!(error.reason(), Reason::ArgumentInvalid);
            assert!(error.message().contains(named), "{error}");
        }
    }
}
