//! Cuts a JSON array into its elements as it is read, however long it is and however its lines are broken.
//!
//! It finds only where an element ends. Whether an element is valid JSON is found out when it is decoded.

use std::io::BufRead;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;

/// A JSON array in a file.
#[derive(Debug, Default)]
pub(crate) struct JsonArray {
    place: ArrayPlace,
    /// The line of the next byte, from 0.
    lines: u64,
    /// The bytes read.
    pub(crate) offset: u64,
}

/// Where in the array the next byte is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ArrayPlace {
    #[default]
    Before,
    /// Behind the bracket: an element or the end follows.
    Opened,
    /// Behind a comma: an element follows.
    Comma,
    /// Behind an element: a comma or the end follows.
    Element,
    Closed,
}

/// How far an element has been read.
#[derive(Debug, Default)]
struct ElementScan {
    depth: u32,
    in_string: bool,
    is_escaped: bool,
}

impl ElementScan {
    /// Whether the element ends before this byte: only numbers and words have no end of their own.
    fn ends_before(&self, byte: u8) -> bool {
        let separates = matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
        self.depth == 0 && !self.in_string && separates
    }

    /// Takes the next byte. Returns whether the element ends with it.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return !self.in_string && self.depth == 0;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl JsonArray {
    /// Reads the next element: the number of its first line, from 1, and its text on one line. `None` at the end of the file.
    pub(crate) fn next(&mut self, source: &mut impl BufRead) -> Result<Option<(u64, Vec<u8>)>> {
        while let Some(byte) = self.peek(source)? {
            let next = match (self.place, byte) {
                (_, b' ' | b'\t' | b'\r' | b'\n') => self.place,
                (ArrayPlace::Before, b'[') => ArrayPlace::Opened,
                (ArrayPlace::Opened | ArrayPlace::Element, b']') => ArrayPlace::Closed,
                (ArrayPlace::Element, b',') => ArrayPlace::Comma,
                (ArrayPlace::Opened | ArrayPlace::Comma, other) if !matches!(other, b',' | b']' | b'}') => {
                    self.place = ArrayPlace::Element;
                    let line = self.line();
                    return Ok(Some((line, self.element(source)?)));
                }
                (ArrayPlace::Closed, _) => {
                    return Err(invalid("there is text after the end of the array"));
                }
                (ArrayPlace::Element, _) => {
                    return Err(invalid("expected a comma or the end of the array"));
                }
                _ => return Err(invalid("expected an element of the array")),
            };
            self.place = next;
            self.take(source, byte);
        }
        match self.place {
            ArrayPlace::Closed => Ok(None),
            _ => Err(invalid("the file ends within the array")),
        }
    }

    /// Reads an element, whose first byte is next. Line breaks in it become spaces: JSON has none in its strings.
    fn element(&mut self, source: &mut impl BufRead) -> Result<Vec<u8>> {
        let (mut scan, mut text) = (ElementScan::default(), Vec::new());
        while let Some(byte) = self.peek(source)? {
            if scan.ends_before(byte) {
                break;
            }
            self.take(source, byte);
            text.push(if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
            if scan.ends_with(byte) {
                break;
            }
            if text.len() > limits::REQUEST_BYTES {
                let limit = limits::REQUEST_BYTES >> 20;
                let message = format!("an element of the array is longer than the limit of {limit} MiB");
                return Err(Error::new(Reason::TooLarge, message));
            }
        }
        text.push(b'\n');
        Ok(text)
    }

    fn peek(&self, source: &mut impl BufRead) -> Result<Option<u8>> {
        let filled = source.fill_buf().map_err(|e| Error::io("cannot read", &e))?;
        Ok(filled.first().copied())
    }

    fn take(&mut self, source: &mut impl BufRead, byte: u8) {
        source.consume(1);
        self.offset += 1;
        self.lines += u64::from(byte == b'\n');
    }

    /// The line of the next byte, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.lines + 1
    }
}

fn invalid(message: &str) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<(u64, String)>> {
        let (mut array, mut source) = (JsonArray::default(), text.as_bytes());
        let mut found = Vec::new();
        while let Some((line, element)) = array.next(&mut source)? {
            found.push((line, String::from_utf8(element).unwrap()));
        }
        assert_eq!(array.offset, text.len() as u64);
        Ok(found)
    }

    #[test]
    fn elements_are_found_however_the_lines_are_broken() {
        let text = "\n[ {\"a\":\"]},\\\"\",\n  \"b\":[1,{}]}\r\n,{}, 7 ,\"x,y\"]\n\n";
        let expected =
            [(2, "{\"a\":\"]},\\\"\",   \"b\":[1,{}]}\n"), (4, "{}\n"), (4, "7\n"), (4, "\"x,y\"\n")];
        let found = elements(text).unwrap();
        let found: Vec<(u64, &str)> = found.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(elements("[]").unwrap(), []);
    }

    #[test]
    fn a_broken_array_is_reported_with_its_line() {
        for (text, line, expected) in [
            ("[{}\n{}]", 2, "expected a comma"),
            ("[{},\n]", 2, "expected an element"),
            ("[,{}]", 1, "expected an element"),
            ("[{}]\n{}", 2, "there is text after the end"),
            ("[{}\n", 2, "the file ends within the array"),
            ("[{\"a\":\"", 1, "the file ends within the array"),
        ] {
            let (mut array, mut source) = (JsonArray::default(), text.as_bytes());
            let error = loop {
                match array.next(&mut source) {
                    Ok(found) => assert!(found.is_some(), "{text:?}"),
                    Err(error) => break error,
                }
            };
            assert!(error.message().starts_with(expected) && array.line() == line, "{text:?}: {error}");
        }
    }
}
