//! A small file system of its own, to fill: a tmpfs. Only root can mount one.

#![expect(clippy::disallowed_methods, reason = "fills a disk")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a tmpfs of some bytes. Returns `None`, with a message, if this user cannot.
    pub fn mount(bytes: u64) -> Option<SmallDisk> {
        // Not a TempDir: dropping that would remove the mounted files.
        let at = tempfile::tempdir().unwrap().keep();
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        if !mount.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: cannot mount a tmpfs here: {mount:?}");
            let _ = fs::remove_dir(&at);
            return None;
        }
        Some(SmallDisk(at))
    }

    /// A directory for a database on the disk.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self) {
        let name = (0..).map(|i| self.0.join(format!("fill{i}"))).find(|path| !path.exists()).unwrap();
        let mut file = fs::File::create(name).unwrap();
        for size in [64 << 10, 1 << 10, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Removes what filled the disk.
    pub fn free(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("fill") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Every file of the database, by its path in it.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut open = vec![self.data()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.push(relative(&path, &self.data()));
                }
            }
        }
        files.sort();
        files
    }

    /// Removes a file of the database.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.data().join(name)).unwrap();
    }
}

fn relative(path: &Path, to: &Path) -> String {
    path.strip_prefix(to).unwrap().to_string_lossy().into_owned()
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}
