//! A new file for rows or commits, compressed if its name says so. It gets its name once it is whole.

use std::io::{BufWriter, Write};
use std::path::Path;

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs::{self, NewOutputFile};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Enough to make a dump a tenth as large, and not slower than the database is read.
const ZSTD_LEVEL: i32 = 3;

/// A file in progress.
pub(crate) struct OutputFile {
    name: String,
    encoder: OutputEncoder,
}

enum OutputEncoder {
    Plain(BufWriter<NewOutputFile>),
    Gzip(GzEncoder<BufWriter<NewOutputFile>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<NewOutputFile>>),
}

impl OutputFile {
    /// Begins the file, which gets its name when it is whole. Fails if it exists: the older one may be all that somebody has.
    pub(crate) fn create(path: &Path) -> Result<OutputFile> {
        let file = BufWriter::with_capacity(256 << 10, fs::create_new_output(path)?);
        let name = path.display().to_string();
        let encoder = match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => OutputEncoder::Gzip(GzEncoder::new(file, Compression::default())),
            Some("zst" | "zstd") => {
                let encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL);
                OutputEncoder::Zstd(encoder.map_err(|e| failed(&name, &e))?)
            }
            _ => OutputEncoder::Plain(file),
        };
        Ok(OutputFile { name, encoder })
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let out: &mut dyn Write = match &mut self.encoder {
            OutputEncoder::Plain(file) => file,
            OutputEncoder::Gzip(encoder) => encoder,
            OutputEncoder::Zstd(encoder) => encoder,
        };
        out.write_all(bytes).map_err(|e| failed(&self.name, &e))
    }

    /// Ends the compression, makes the file durable and gives it its name.
    pub(crate) fn finish(self) -> Result<()> {
        let file = match self.encoder {
            OutputEncoder::Plain(file) => Ok(file),
            OutputEncoder::Gzip(encoder) => encoder.finish(),
            OutputEncoder::Zstd(encoder) => encoder.finish(),
        };
        let file = file.and_then(|file| file.into_inner().map_err(std::io::IntoInnerError::into_error));
        file.and_then(NewOutputFile::finish).map_err(|e| failed(&self.name, &e))
    }
}

fn failed(name: &str, error: &std::io::Error) -> Error {
    Error::io(format_args!("cannot write {name}"), error)
}
