//! The file of a dump, compressed if its name says so.

use std::io::{BufWriter, Write};
use std::path::Path;

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs::{self, NewOutputFile};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Enough to make a dump a tenth as large, and not slower than the database is read.
const ZSTD_LEVEL: i32 = 3;

/// The file of a dump.
pub(super) struct DumpSink {
    name: String,
    encoder: DumpEncoder,
}

enum DumpEncoder {
    Plain(BufWriter<NewOutputFile>),
    Gzip(GzEncoder<BufWriter<NewOutputFile>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<NewOutputFile>>),
}

impl DumpSink {
    /// Begins the file, which gets its name when it is whole. Fails if it exists: an older dump may be all that somebody has.
    pub(super) fn create(path: &Path) -> Result<DumpSink> {
        let file = BufWriter::with_capacity(256 << 10, fs::create_new_output(path)?);
        let name = path.display().to_string();
        let encoder = match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => DumpEncoder::Gzip(GzEncoder::new(file, Compression::default())),
            Some("zst" | "zstd") => {
                let encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL);
                DumpEncoder::Zstd(encoder.map_err(|e| failed(&name, &e))?)
            }
            _ => DumpEncoder::Plain(file),
        };
        Ok(DumpSink { name, encoder })
    }

    /// Writes a line.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        let out: &mut dyn Write = match &mut self.encoder {
            DumpEncoder::Plain(file) => file,
            DumpEncoder::Gzip(encoder) => encoder,
            DumpEncoder::Zstd(encoder) => encoder,
        };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
        written.map_err(|e| failed(&self.name, &e))
    }

    /// Ends the compression, makes the file durable and gives it its name.
    pub(super) fn finish(self) -> Result<()> {
        let file = match self.encoder {
            DumpEncoder::Plain(file) => Ok(file),
            DumpEncoder::Gzip(encoder) => encoder.finish(),
            DumpEncoder::Zstd(encoder) => encoder.finish(),
        };
        let file = file.and_then(|file| file.into_inner().map_err(std::io::IntoInnerError::into_error));
        file.and_then(NewOutputFile::finish).map_err(|e| failed(&self.name, &e))
    }
}

fn failed(name: &str, error: &std::io::Error) -> Error {
    Error::io(format_args!("cannot write {name}"), error)
}
