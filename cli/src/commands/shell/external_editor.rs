//! `\e`: the editor that EDITOR names, on a file or on the last statement.

use std::env;
use std::io::Write;
use std::path::Path;

use driftdb_common::error::{Error, Reason, Result};
use tokio::process::Command;

use crate::exit::{CliResult, Failure};
use crate::input;

/// The editor if VISUAL and EDITOR name none: every system has it.
const DEFAULT: &str = "vi";

/// Lets the user edit a file.
pub(super) async fn edit_file(file: &Path) -> CliResult {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(|name| env::var(name).ok());
    let editor = named.filter(|text| !text.trim().is_empty()).next().unwrap_or_else(|| DEFAULT.to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or(DEFAULT);
    let status = Command::new(program).args(words).arg(file).status().await;
    let failed = |why: String| {
        Failure::Program(format!(
            "cannot edit {}: {program} {why}; set EDITOR to another editor",
            file.display()
        ))
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("ended with {status}"))),
        Err(e) => Err(failed(format!("did not start: {e}"))),
    }
}

/// Lets the user edit text. Returns what it is then.
pub(super) async fn edit_text(text: &str) -> CliResult<String> {
    let mut file =
        tempfile::Builder::new().prefix("driftctl-").suffix(".dql").tempfile().map_err(|e| io(&e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(|e| io(&e))?;
    edit_file(file.path()).await?;
    Ok(read(file.path()).await?)
}

async fn read(path: &Path) -> Result<String> {
    input::read_script(path).await
}

fn io(e: &std::io::Error) -> Error {
    Error::new(Reason::Io, format!("cannot write the file to edit: {e}"))
}
