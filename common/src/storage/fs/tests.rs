//! Reading past caches, and files that are not as long as they say.

use super::*;

/// A file of the system's own, removed when dropped.
struct Own(PathBuf);

impl Own {
    fn with(bytes: &[u8]) -> Own {
        let path = std::env::temp_dir().join(format!("driftdb-disk-{}", uuid::Uuid::new_v4()));
        OsFileSystem.create(&path).unwrap().write_at(bytes, 0).unwrap();
        Own(path)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = OsFileSystem.remove(&self.0);
    }
}

/// Local file systems say no to reads that are not aligned, some to reading past caches at all: then it is read as ever.
#[test]
#[expect(clippy::disallowed_methods, reason = "this is the one place that touches files")]
fn reads_past_caches_need_no_alignment() {
    let bytes: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let own = Own::with(&bytes);
    let file = fs::File::open(&own.0).unwrap();
    let _ = fcntl_setfl(&file, fcntl_getfl(&file).unwrap() | OFlags::DIRECT);
    let direct = DirectFile(file);
    for (offset, len) in [(0, 10_000), (7, 13), (4096, 1), (9_990, 100), (10_000, 1), (20_000, 5)] {
        let mut buf = vec![0; len];
        let read = direct.read_at(&mut buf, offset as u64).unwrap();
        let expected = bytes.get(offset..).unwrap_or_default();
        assert_eq!(buf[..read], expected[..len.min(expected.len())], "{len} at {offset}");
    }
}

#[derive(Debug, Clone)]
struct Liar {
    bytes: Vec<u8>,
    len: u64,
}

impl File for Liar {
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
fn a_file_ends_where_reading_ends() {
    for size in [0, 1, 99, 100, 101, 200_000] {
        let bytes = vec![7; size];
        for len in [0, 1, size as u64, 100, 300_000, u64::MAX] {
            let file = Liar { bytes: bytes.clone(), len };
            let whole = read_whole(&file, size as u64).unwrap();
            assert_eq!(whole.as_ref(), Some(&bytes), "{size} bytes that say they are {len}");
            if let Some(less) = (size as u64).checked_sub(1) {
                assert_eq!(
                    read_whole(&file, less).unwrap(),
                    None,
                    "more than {less} that say they are {len}"
                );
            }
        }
    }
}
