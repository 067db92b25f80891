//! The files of a store that `bench` measures: their sizes, and a start without the page cache.

use std::path::{Path, PathBuf};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use tokio::process::Command;

/// The total size in bytes of all files below a directory.
pub(crate) fn bytes_in(dir: &Path) -> u64 {
    files_in(dir).iter().filter_map(|file| OsFileSystem.open(file).ok()?.len().ok()).sum()
}

/// The files below a directory. Files that are removed meanwhile are ignored.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        match OsFileSystem.list(&path) {
            Ok(names) => open.extend(names.into_iter().map(|name| path.join(name))),
            Err(_) => files.push(path),
        }
    }
    files
}

/// Drops the files of a directory from the page cache.
pub(crate) async fn leave_page_cache(dir: &Path) -> Result<()> {
    for file in files_in(dir) {
        // `dd` needs no special rights, and affects only these files.
        let mut input = std::ffi::OsString::from("if=");
        input.push(&file);
        let mut command = Command::new("dd");
        command.arg(input).args(["iflag=nocache", "count=0", "status=none"]);
        let output = command.output().await;
        let output = output.map_err(|e| Error::io("cannot drop files from the page cache: dd", &e))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(
                Reason::NotSupported,
                format!("cannot drop files from the page cache: {stderr}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_size_of_a_directory_is_measured_and_its_files_can_be_dropped_from_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        OsFileSystem.create_dir(&dir.path().join("a/b")).unwrap();
        for (name, bytes) in [("x", 3), ("a/y", 5), ("a/b/z", 7)] {
            let file = OsFileSystem.create(&dir.path().join(name)).unwrap();
            file.write_at(&vec![1; bytes], 0).unwrap();
            file.sync().unwrap();
        }
        assert_eq!(bytes_in(dir.path()), 15);
        assert_eq!(bytes_in(&dir.path().join("none")), 0);
        if let Err(error) = leave_page_cache(dir.path()).await {
            assert!(error.message().contains("page cache"), "{error}");
        }
        assert_eq!(bytes_in(dir.path()), 15);
    }
}
