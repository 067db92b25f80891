//! What a configuration file says: keys with texts, numbers, truth values or lists of them, each with its line.

use std::io::Read;
use std::path::Path;

use clap::Arg;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Reason, Result, nearest};
use crate::storage::fs;

/// A longer file is none of ours.
const FILE_BYTES: u64 = 1 << 20;

/// One key of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    /// The line of the value, from 1.
    pub(super) line: usize,
    value: SettingValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SettingValue {
    /// Text, or a number as text.
    Text(String),
    Bool(bool),
    List(Vec<String>),
    /// Something that no option takes, by its name in TOML.
    Other(&'static str),
}

/// Reads a file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let invalid = |what: String| Error::new(Reason::ArgumentInvalid, format!("{}: {what}", path.display()));
    let mut bytes = Vec::new();
    let read = fs::open_input(path)
        .map_err(|e| e.context("the configuration file"))?
        .take(FILE_BYTES + 1)
        .read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format_args!("cannot read the configuration file {}", path.display()), &e))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(invalid(format!("a configuration file has at most {} MiB", FILE_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| invalid("the file is not UTF-8".to_owned()))
}

/// The settings in the text of a file, in the order of their lines.
pub(super) fn parse_settings(path: &Path, text: &str) -> Result<Vec<Setting>> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        let message = format!("{}:{line}: {}", path.display(), error.message());
        Error::new(Reason::ArgumentInvalid, message)
    })?;
    let mut settings = Vec::new();
    for (key, value) in table.into_inner() {
        let line = line_of(text, key.span().start);
        settings.push(Setting { key: key.into_inner().into_owned(), line, value: of_toml(value.get_ref()) });
    }
    settings.sort_by_key(|setting| setting.line);
    Ok(settings)
}

/// The number of the line of a byte, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn of_toml(value: &DeValue<'_>) -> SettingValue {
    match value {
        DeValue::Boolean(is_true) => SettingValue::Bool(*is_true),
        DeValue::Array(values) => {
            let texts: Option<Vec<String>> = values.iter().map(|value| scalar(value.get_ref())).collect();
            texts.map_or(SettingValue::Other("a list of lists or tables"), SettingValue::List)
        }
        DeValue::Datetime(_) => SettingValue::Other("a date"),
        DeValue::Table(_) => SettingValue::Other("a table"),
        other => scalar(other).map_or(SettingValue::Other("no number"), SettingValue::Text),
    }
}

/// A text, or a number as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(int) => {
            i128::from_str_radix(int.as_str(), int.radix()).ok().map(|int| int.to_string())
        }
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        _ => None,
    }
}

impl Setting {
    /// The values as texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = match &self.value {
            SettingValue::Text(text) => std::slice::from_ref(text),
            SettingValue::List(texts) => texts.as_slice(),
            SettingValue::Bool(_) | SettingValue::Other(_) => &[],
        };
        texts.iter().map(String::as_str)
    }

    /// The same on a command line.
    pub(super) fn arguments(&self, arg: &Arg) -> Vec<String> {
        let long = arg.get_long().unwrap_or_default();
        match self.value {
            SettingValue::Bool(true) => vec![format!("--{long}")],
            _ => self.texts().map(|text| format!("--{long}={text}")).collect(),
        }
    }

    /// Fails with what is wrong unless the value is of a kind that an option takes.
    pub(super) fn check_kind(&self, is_switch: bool, takes_many: bool) -> std::result::Result<(), String> {
        let wanted = match (&self.value, is_switch, takes_many) {
            (SettingValue::Bool(_), true, _)
            | (SettingValue::Text(_), false, _)
            | (SettingValue::List(_), false, true) => return Ok(()),
            (_, true, _) => "true or false",
            (_, false, true) => "a text in quotes, or a list of them",
            (_, false, false) => "a text in quotes, or a number",
        };
        let found = match &self.value {
            SettingValue::Text(_) => "a text or a number",
            SettingValue::Bool(_) => "a truth value",
            SettingValue::List(_) => "a list",
            SettingValue::Other(what) => *what,
        };
        Err(format!("expected {wanted}, found {found}"))
    }

    /// The error of a key that is no option. `is_own` says that it is one of the command line only.
    pub(super) fn unknown(&self, path: &Path, is_own: bool, names: &[&str]) -> Error {
        let key = &self.key;
        let message = if is_own {
            format!("{}:{}: {key:?} can only be given on the command line", path.display(), self.line)
        } else {
            let as_option = key.replace('_', "-");
            let near = names.iter().copied().find(|name| *name == as_option);
            let near = near
                .or_else(|| nearest(key, names.iter().copied()))
                .map(|near| format!("; did you mean {near:?}?"));
            let hint = near.unwrap_or_else(|| "; --help lists the options".to_owned());
            format!("{}:{}: unknown key {key:?}{hint}", path.display(), self.line)
        };
        Error::new(Reason::ArgumentInvalid, message)
    }

    /// The error of a value that the option does not take.
    pub(super) fn refused(&self, path: &Path, why: &str) -> Error {
        let texts: Vec<&str> = self.texts().collect();
        let value = if texts.is_empty() { String::new() } else { format!(" {:?}", texts.join(", ")) };
        let message =
            format!("{}:{}: invalid value{value} for {:?}: {why}", path.display(), self.line, self.key);
        Error::new(Reason::ArgumentInvalid, message)
    }
}

/// A text as TOML has it, in quotes.
pub fn toml_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
