//! Tests of direct reads, and of files whose reported length is wrong.

use super::*;

/// A file in the temporary directory, removed when dropped.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn with(bytes: &[u8]) -> TemporaryFile {
        let path = std::env::temp_dir().join(format!("driftdb-disk-{}", uuid::Uuid::new_v4()));
        OsFileSystem.create(&path).unwrap().write_at(bytes, 0).unwrap();
        TemporaryFile(path)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = OsFileSystem.remove(&self.0);
    }
}

/// Local file systems reject unaligned direct reads, and some reject direct reads altogether. Reads then use the cache.
#[test]
#[expect(clippy::disallowed_methods, reason = "only this file accesses files")]
fn direct_reads_need_no_alignment() {
    let bytes: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let temporary = TemporaryFile::with(&bytes);
    let file = fs::File::open(&temporary.0).unwrap();
    let _ = fcntl_setfl(&file, fcntl_getfl(&file).unwrap() | OFlags::DIRECT);
    let direct = DirectFile(file);
    for (offset, len) in [(0, 10_000), (7, 13), (4096, 1), (9_990, 100), (10_000, 1), (20_000, 5)] {
        let mut buf = vec![0; len];
        let read = direct.read_at(&mut buf, offset as u64).unwrap();
        let expected = bytes.get(offset..).unwrap_or_default();
        assert_eq!(buf[..read], expected[..len.min(expected.len())], "{len} at {offset}");
    }
}

/// A file that reports a wrong length.
#[derive(Debug, Clone)]
struct MisreportedFile {
    bytes: Vec<u8>,
    len: u64,
}

impl File for MisreportedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_ends_where_a_read_ends() {
    for size in [0, 1, 99, 100, 101, 200_000] {
        let bytes = vec![7; size];
        for len in [0, 1, size as u64, 100, 300_000, u64::MAX] {
            let file = MisreportedFile { bytes: bytes.clone(), len };
            let whole = read_whole(&file, size as u64).unwrap();
            assert_eq!(whole.as_ref(), Some(&bytes), "{size} bytes, reported as {len}");
            if let Some(less) = (size as u64).checked_sub(1) {
                assert_eq!(read_whole(&file, less).unwrap(), None, "more than {less}, reported as {len}");
            }
        }
    }
}
