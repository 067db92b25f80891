//! Input files, or stdin: whole scripts, and data line by line.
//!
//! Input is read on separate threads: a read from a pipe can block forever, and Ctrl-C must work nevertheless.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::storage::fs;
use tokio::sync::mpsc;

/// The maximum length of a line, in bytes: a longer one does not fit in a request.
const LINE_BYTES: usize = limits::REQUEST_BYTES;
/// The maximum size of a script, in bytes: it is kept in memory.
const SCRIPT_BYTES: usize = 256 << 20;
/// How many lines are read ahead.
const AHEAD: usize = 64;

/// The name of a file in error messages.
pub(crate) fn name(path: &Path) -> String {
    if is_stdin(path) { "stdin".to_owned() } else { path.display().to_string() }
}

/// Whether a path means stdin.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file or stdin.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if is_stdin(path) { Ok(Box::new(io::stdin())) } else { fs::open_input(path) }
}

/// How many bytes tell the encoding of a file.
const SIGNATURE_BYTES: u64 = 4;
/// Some programs write this before the first line of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The first bytes of a file that is compressed with gzip.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The first bytes of a file that is compressed with zstd.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The text of a file.
pub(crate) struct InputText {
    /// The text, from its first character on.
    pub(crate) text: Box<dyn Read + Send>,
    /// The number of bytes before it: those of the byte order mark.
    pub(crate) skipped: u64,
}

/// The text of a file, decompressed, and without its byte order mark. Fails if its first bytes show that it is not UTF-8: line by line,
/// such a file would be nothing but invalid lines.
pub(crate) fn text_of(source: impl Read + Send + 'static) -> Result<InputText> {
    let (first, source) = signature(source)?;
    if first.starts_with(GZIP) {
        return plain_text(flate2::read::MultiGzDecoder::new(source));
    }
    if first.starts_with(ZSTD) {
        let decoder = zstd::stream::read::Decoder::new(source);
        return plain_text(decoder.map_err(|e| Error::io("cannot decompress", &e))?);
    }
    plain_text(source)
}

/// A file whose first bytes were already read.
type BegunFile<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// The first bytes of a file, and the whole of it.
fn signature<R: Read>(mut source: R) -> Result<(Vec<u8>, BegunFile<R>)> {
    let mut first = Vec::new();
    let read = source.by_ref().take(SIGNATURE_BYTES).read_to_end(&mut first);
    read.map_err(|e| Error::io("cannot read", &e))?;
    Ok((first.clone(), io::Cursor::new(first).chain(source)))
}

fn plain_text(source: impl Read + Send + 'static) -> Result<InputText> {
    let (first, mut source) = signature(source)?;
    let what = match first.as_slice() {
        [0xff, 0xfe, 0, 0] | [0, 0, 0xfe, 0xff] | [1..=255, 0, 0, 0] | [0, 0, 0, 1..=255] => {
            "it is UTF-32, from byte 0 on: convert it to UTF-8, for example with `iconv -f UTF-32 -t UTF-8`"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, 0, 1..=255] | [1..=255, 0, 1..=255, 0] => {
            "it is UTF-16, from byte 0 on: convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`"
        }
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => "it is compressed twice: decompress it once",
        [0xfd, b'7', b'z', b'X'] => "it is compressed with xz: decompress it, for example with `xz -dc`",
        [b'P', b'K', 3, 4] => "it is a zip file: unpack it first",
        _ => "",
    };
    if !what.is_empty() {
        return Err(Error::new(Reason::DocumentInvalid, format!("the input is not UTF-8 text: {what}")));
    }
    let is_marked = first.starts_with(BYTE_ORDER_MARK);
    if is_marked {
        let mut mark = [0; BYTE_ORDER_MARK.len()];
        source.read_exact(&mut mark).map_err(|e| Error::io("cannot read", &e))?;
    }
    let skipped = if is_marked { BYTE_ORDER_MARK.len() as u64 } else { 0 };
    Ok(InputText { text: Box::new(source), skipped })
}

/// The line of the first byte that is not UTF-8.
fn script_not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> Error {
    let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
    not_utf8(bytes, 0).context(format_args!("line {line}"))
}

/// The error of bytes that are not UTF-8: names the first such byte, its offset in the file, the encoding that it looks like, and what to do.
/// The bytes begin at `offset`.
pub(crate) fn not_utf8(bytes: &[u8], offset: u64) -> Error {
    let valid = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
    let at = offset + valid as u64;
    let message = match bytes.get(valid..).unwrap_or_default() {
        [] => format!("not UTF-8 before byte {at}"),
        [first, ..] => {
            let (name, iconv) = looks_like(bytes);
            format!(
                "byte 0x{first:02x} at offset {at} is not UTF-8; the text looks like {name}: convert the file, for example with `iconv -f {iconv} -t UTF-8`"
            )
        }
    };
    Error::new(Reason::DocumentInvalid, message)
}

/// The encoding that text which is not UTF-8 most likely has, and its name for iconv.
fn looks_like(bytes: &[u8]) -> (&'static str, &'static str) {
    if bytes.contains(&0) {
        return ("UTF-16", "UTF-16");
    }
    // ISO-8859-1 has control characters here, Windows-1252 has quotes, dashes and the euro sign.
    match bytes.iter().any(|byte| (0x80..0xa0).contains(byte)) {
        true => ("Windows-1252", "WINDOWS-1252"),
        false => ("Latin-1 (ISO-8859-1)", "ISO-8859-1"),
    }
}

/// Reads a whole script.
pub(crate) async fn read_script(path: &Path) -> Result<String> {
    let (path, name) = (path.to_owned(), name(path));
    let reading = tokio::task::spawn_blocking(move || {
        let failed = |e: io::Error| Error::io(format_args!("cannot read {name}"), &e);
        let mut bytes = Vec::new();
        let source = text_of(open(&path)?).map_err(|e| e.context(&name))?;
        let read = source.text.take(SCRIPT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read > SCRIPT_BYTES {
            let message = format!(
                "{name} is larger than the limit of {} MiB: load data with ingest or apply",
                SCRIPT_BYTES >> 20
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        String::from_utf8(bytes).map_err(|e| script_not_utf8(e.as_bytes(), e.utf8_error()).context(&name))
    });
    reading.await.map_err(|e| Error::new(Reason::Internal, format!("reading a script failed: {e}")))?
}

/// A line of a file, without its line ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputLine {
    /// The line number, from 1.
    pub(crate) number: u64,
    /// The text; never blank.
    pub(crate) text: String,
}

/// The non-blank lines of a file, read in the background.
#[derive(Debug)]
pub(crate) struct Lines {
    name: String,
    receiver: mpsc::Receiver<Result<InputLine>>,
}

impl Lines {
    /// Opens a file and starts to read it.
    pub(crate) fn open(path: &Path) -> Result<Lines> {
        let (name, source) = (name(path), open(path)?);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let named = name.clone();
        tokio::task::spawn_blocking(move || read_lines(source, &named, &sender));
        Ok(Lines { name, receiver })
    }

    /// The next line; `None` at the end of the file.
    pub(crate) async fn next(&mut self) -> Result<Option<InputLine>> {
        self.receiver.recv().await.transpose()
    }

    /// The name of a line in error messages.
    pub(crate) fn place(&self, number: u64) -> String {
        format!("{}, line {number}", self.name)
    }
}

fn read_lines(source: impl Read + Send + 'static, name: &str, sender: &mpsc::Sender<Result<InputLine>>) {
    let (source, skipped) = match text_of(source) {
        Ok(source) => {
            let skipped = source.skipped;
            (source, skipped)
        }
        Err(error) => {
            // If nobody receives, the command has failed for another reason.
            let _ = sender.blocking_send(Err(error.context(name)));
            return;
        }
    };
    let mut source = BufReader::with_capacity(256 << 10, source.text);
    let mut offset = skipped;
    for number in 1.. {
        let line = match read_line(&mut source, &mut offset) {
            Ok(None) => return,
            Ok(Some(text)) if text.trim().is_empty() => continue,
            Ok(Some(text)) => Ok(InputLine { number, text }),
            Err(error) => Err(error.context(format_args!("{name}, line {number}"))),
        };
        let last = line.is_err();
        // If nobody receives, the command has failed for another reason.
        if sender.blocking_send(line).is_err() || last {
            return;
        }
    }
}

/// Reads the next line with its line ending; `None` at the end of the input.
pub(crate) fn read_raw_line(source: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = source.by_ref().take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes);
    if read.map_err(|e| Error::io("cannot read", &e))? == 0 {
        return Ok(None);
    }
    if bytes.len() > LINE_BYTES {
        let message = format!("the line is longer than the limit of {} MiB", LINE_BYTES >> 20);
        return Err(Error::new(Reason::TooLarge, message));
    }
    Ok(Some(bytes))
}

/// The next line without its line ending. It begins at `offset`, which moves to its end.
fn read_line(source: &mut impl BufRead, offset: &mut u64) -> Result<Option<String>> {
    let Some(mut bytes) = read_raw_line(source)? else { return Ok(None) };
    let begins = *offset;
    *offset += bytes.len() as u64;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|e| not_utf8(e.as_bytes(), begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<InputLine>> {
        let (sender, mut receiver) = mpsc::channel(100);
        read_lines(io::Cursor::new(bytes.to_vec()), "x.jsonl", &sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn blank_lines_are_numbered_and_skipped() {
        let found: Vec<InputLine> =
            lines(b"{\"a\":1}\r\n\n  \n{\"b\":2}").into_iter().collect::<Result<_>>().unwrap();
        let line = |number, text: &str| InputLine { number, text: text.to_owned() };
        assert_eq!(found, [line(1, "{\"a\":1}"), line(4, "{\"b\":2}")]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn what_is_not_utf_8_text_is_refused_as_a_whole() {
        for (bytes, what) in [
            (b"\xff\xfe{\0}\0\n\0".as_slice(), "UTF-16"),
            (b"\xfe\xff\0{\0}", "UTF-16"),
            (b"{\0}\0\n\0", "UTF-16"),
            (b"\0{\0}", "UTF-16"),
            (&zstd::encode_all(b"\x1f\x8b\x08\0".as_slice(), 1).unwrap(), "compressed twice"),
            (b"\x28\xb5\x2f\xfd", "cannot read"),
            (b"PK\x03\x04", "zip"),
        ] {
            let found = lines(bytes);
            let error = found[0].as_ref().unwrap_err();
            assert!(found.len() == 1 && error.message().contains(what), "{error}");
        }
        let line = InputLine { number: 1, text: "{}".to_owned() };
        let compressed = zstd::encode_all(b"\xef\xbb\xbf{}".as_slice(), 1).unwrap();
        let found = lines(&compressed).into_iter().collect::<Result<Vec<_>>>().unwrap();
        assert_eq!(found, std::slice::from_ref(&line));
        assert_eq!(lines(b"\xef\xbb\xbf{}").into_iter().collect::<Result<Vec<_>>>().unwrap(), [line]);
        assert!(lines(b"\xef\xbb\xbf").is_empty());
        let bytes = b"a\nb\n\xc3".to_vec();
        let error = script_not_utf8(&bytes, std::str::from_utf8(&bytes).unwrap_err());
        assert!(error.message().starts_with("line 3: byte 0xc3 at offset 4 is not UTF-8"), "{error}");
    }

    #[test]
    fn an_invalid_line_is_reported_and_ends_the_input() {
        let found = lines(b"{}\n\xff\n{}\n");
        assert_eq!(found.len(), 2);
        let error = found[1].as_ref().unwrap_err();
        assert!(
            error.message().starts_with("x.jsonl, line 2: byte 0xff at offset 3 is not UTF-8"),
            "{error}"
        );
    }
}
