//! The table and the rows that a command is about: as options, or as arguments without a name.
//!
//! `driftctl get orders o1` and `driftctl get -t orders -k o1` mean the same. clap cannot say that the first argument is the table only if
//! `--table` is missing, so all are collected, and sorted out once the command line is parsed.

use std::path::{Path, PathBuf};

use clap::Args;

/// The table of a command.
#[derive(Debug, Default, Args)]
pub(crate) struct TableTargetArgs {
    /// Table, as the first argument
    #[arg(value_name = "TABLE", required_unless_present = "table")]
    first: Option<String>,
    /// Table, as an option
    #[arg(short, long, value_name = "TABLE", conflicts_with = "first")]
    table: Option<String>,
}

impl TableTargetArgs {
    /// The name of the table.
    pub(crate) fn name(&self) -> &str {
        self.table.as_deref().or(self.first.as_deref()).unwrap_or_default()
    }
}

/// The table of a command, and keys in it.
#[derive(Debug, Default, Args)]
pub(crate) struct RowTargetArgs {
    /// Table, then keys; with --table all are keys
    #[arg(value_name = "TABLE [KEY]")]
    arguments: Vec<String>,
    /// Table, as an option
    #[arg(short, long, value_name = "TABLE")]
    table: Option<String>,
    /// Key of a row, as an option; can be repeated
    #[arg(short, long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

impl RowTargetArgs {
    /// Sorts the arguments out. Fails with a message unless there is a table, and from `least` to `most` keys.
    pub(crate) fn resolve(&mut self, least: usize, most: usize) -> Result<(), String> {
        let mut arguments = std::mem::take(&mut self.arguments).into_iter();
        if self.table.is_none() {
            self.table = arguments.next();
        }
        if self.table.is_none() {
            return Err("a table is required: give its name, or --table".to_owned());
        }
        let named = std::mem::take(&mut self.keys);
        self.keys = arguments.chain(named).collect();
        match self.keys.len() {
            0 if least > 0 => Err("a key is required: give it after the table, or --key".to_owned()),
            count if count > most => Err(format!("{count} keys are given, and the command takes {most}")),
            _ => Ok(()),
        }
    }

    /// The name of the table.
    pub(crate) fn table(&self) -> &str {
        self.table.as_deref().unwrap_or_default()
    }

    /// The keys.
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }
}

/// The table of a command, and a file to read or to write.
#[derive(Debug, Default, Args)]
pub(crate) struct FileTargetArgs {
    /// Table, then the file; with --table the file only. `-` means stdin, or stdout
    #[arg(value_name = "TABLE FILE")]
    arguments: Vec<PathBuf>,
    /// Table, as an option
    #[arg(short, long, value_name = "TABLE")]
    table: Option<String>,
    /// File, as an option
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl FileTargetArgs {
    /// Sorts the arguments out. Fails with a message unless there are one table and one file.
    pub(crate) fn resolve(&mut self) -> Result<(), String> {
        let mut arguments = std::mem::take(&mut self.arguments).into_iter();
        if self.table.is_none() {
            let first = arguments.next().map(PathBuf::into_os_string);
            let name = first.ok_or("a table is required: give its name, or --table")?.into_string();
            self.table = Some(name.map_err(|_| "the name of the table is not UTF-8")?);
        }
        self.file = match self.file.take().or_else(|| arguments.next()) {
            Some(file) => Some(file),
            None => return Err("a file is required: give it after the table, or --file".to_owned()),
        };
        match arguments.next() {
            Some(_) => Err("there are more arguments than a table and a file".to_owned()),
            None => Ok(()),
        }
    }

    /// The name of the table.
    pub(crate) fn table(&self) -> &str {
        self.table.as_deref().unwrap_or_default()
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("-"))
    }
}
