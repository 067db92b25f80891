//! `token`: makes tokens.

use std::fmt::Write as _;
use std::io::Write as _;

use driftdb_common::error::{Error, Result};
use driftdb_common::service::access::auth_file;
use driftdb_common::service::access::token::{TokenHash, new_token};
use driftdb_common::storage::fs;

use crate::args::{NewTokenArgs, TokenArgs, TokenCommand};
use crate::exit::CliResult;
use crate::render::Printer;

/// Makes a token, and prints it with the lines for the auth file.
pub(crate) fn run(args: TokenArgs, out: &mut Printer) -> CliResult {
    let TokenCommand::New(args) = args.command;
    let token = new_token()?;
    let lines = lines_for_file(&args, &token)?;
    match &args.out {
        Some(path) => {
            let what = format!("cannot write the token to {}", path.display());
            let mut file = fs::create_private(path)?;
            let written = file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.flush());
            written.map_err(|e| Error::io(what, &e))?;
            out.print_text(&lines)
        }
        None => {
            out.print_text(&format!("{token}\n\nFor the auth file, without the token itself:\n\n{lines}"))
        }
    }
}

/// The lines that let the principal call with a token.
pub(crate) fn lines_for_file(args: &NewTokenArgs, token: &str) -> Result<String> {
    let mut grants = String::new();
    for (role, tables) in [("read", &args.read), ("write", &args.write), ("admin", &args.admin)] {
        if !tables.is_empty() {
            let tables: Vec<String> = tables.iter().map(|table| format!("{table:?}")).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(grants, "  {{ tables = [{}], role = \"{role}\" }},", tables.join(", "));
        }
    }
    let may = match (args.database_admin, grants.is_empty()) {
        (true, _) => "admin = true\n".to_owned(),
        (false, false) => format!("grants = [\n{grants}]\n"),
        (false, true) => "grants = [] # { tables = [\"orders\", \"audit_*\"], role = \"read\" }\n".to_owned(),
    };
    let expires = args.expires.map(|time| format!("expires = {time}\n")).unwrap_or_default();
    let lines = format!(
        "[[principal]]\nname = {:?}\n{may}\n[[principal.token]]\nsha256 = \"{}\"\n{expires}",
        args.name,
        TokenHash::of(token)
    );
    // What is wrong with the name or a table is better said now.
    auth_file::parse(&lines)?;
    Ok(lines)
}
