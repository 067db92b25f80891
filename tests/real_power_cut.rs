//! Power cuts of a real ext4 file system in a file: what was acknowledged or shown is there after each.
//!
//! The file system is told to shut down at once, so everything that was not synced is gone, as with the power. This needs
//! root, loop devices and python3; without them the test prints why it is skipped.

#![expect(clippy::disallowed_methods, reason = "this test mounts a file system")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::journaled_writes::{JournaledWrites, TABLES};
use crate::harness::lane::by_lane;
use crate::harness::*;
use driftdb::v1;

/// Shuts the file system of a directory down (EXT4_IOC_SHUTDOWN). Mode 1 writes the journal first, mode 2 does not.
const CUT: &str = "import fcntl,os,struct,sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', int(sys.argv[2])))";

/// An ext4 file system in a file, mounted. Dropping it unmounts it.
struct LoopDisk {
    image: PathBuf,
    at: PathBuf,
    _dir: tempfile::TempDir,
}

/// Runs a program. The error is what it printed.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {printed}")) }
}

impl LoopDisk {
    /// Makes and mounts a file system. The error says why this machine cannot.
    fn make(bytes: u64) -> Result<LoopDisk, String> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("mounted"));
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        fs::create_dir(&at).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        run("python3", &["-c", "import fcntl"])?;
        let disk = LoopDisk { image, at, _dir: dir };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()])
    }

    /// Drops what is not on disk. Every call fails from then on, until [`LoopDisk::mount_again`].
    fn cut(&self, mode: &str) {
        run("python3", &["-c", CUT, self.at.to_str().unwrap(), mode]).unwrap();
    }

    /// Mounts the file system again. No process may use it.
    fn mount_again(&self) {
        run("umount", &[self.at.to_str().unwrap()]).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l", self.at.to_str().unwrap()]) {
            eprintln!("{error}");
        }
    }
}

async fn last_seq(writer: &Daemon) -> u64 {
    let status = writer.as_writer().await.status(v1::WriterServiceStatusRequest {}).await;
    status.unwrap().into_inner().last_seq
}

#[ignore = "slow"]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_power_cut_loses_nothing_that_was_acknowledged_or_shown() {
    let disk = match LoopDisk::make(256 << 20) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let dir = disk.at.join("db");
    let options = ["--segment-bytes", "65536", "--snapshot-events", "2000"];
    let mut writer = Daemon::start("driftdb-writer", &dir, &options);
    for table in TABLES {
        create_table(&mut writer.as_writer().await, table).await.unwrap();
    }
    let writes = JournaledWrites::start(&writer.url);
    for cut in 0..by_lane(40, 10_000_u64) {
        let reader = Daemon::reader(&dir);
        // Cuts after a varying number of acknowledgements, to hit another moment each time.
        writes.wait_for_acks(20 + (cut * 37) % 200).await;
        let status = reader.as_reader().await.status(v1::ReaderServiceStatusRequest {}).await.unwrap();
        let shown = status.into_inner().header.unwrap().applied_seq;
        disk.cut(if cut % 2 == 0 { "2" } else { "1" });
        drop(reader);
        writer.kill();
        disk.mount_again();
        writer = Daemon::start("driftdb-writer", &dir, &options);
        let last = last_seq(&writer).await;
        assert!(last >= shown, "a reader showed {shown}, and {last} were kept");
        writes.go_to(&writer.url).await;
    }
    let journal = writes.finish().await;
    journal.check(&dir, last_seq(&writer).await).await;
}
