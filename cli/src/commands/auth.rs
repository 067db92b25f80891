//! `auth`: checks an auth file, and explains who may do what.

use std::io::Read;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::access::auth_file;
use driftdb_common::service::access::principal::Principal;
use driftdb_common::service::access::review;
use driftdb_common::service::access::rules::AccessRules;
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::fs;
use driftdb_common::table::format_time;
use serde::Serialize;

use crate::args::{AuthArgs, AuthCommand};
use crate::exit::CliResult;
use crate::render::{self, Printer};
use crate::shapes;

/// What a principal may do, and how it proves who it is.
#[derive(Serialize)]
struct PrincipalJson {
    principal: String,
    /// With --table: the role on it. Otherwise each role with its tables.
    may: String,
    tokens: Vec<String>,
    certificates: Vec<String>,
}

/// Checks a file, prints who may do what, and warns of what is probably a mistake.
pub(crate) fn run(args: AuthArgs, out: &mut Printer) -> CliResult {
    let AuthCommand::Check { file, table } = args.command;
    let rules = read(&file)?;
    for principal in rules.principals() {
        let may = match &table {
            Some(table) => match principal.role_on(table) {
                Some(role) => role.to_string(),
                None => continue,
            },
            None => rights_of(principal),
        };
        let line = PrincipalJson {
            principal: principal.name.clone(),
            may,
            tokens: tokens_of(&rules, &principal.name),
            certificates: rules.certificates_of(&principal.name).into_iter().map(str::to_owned).collect(),
        };
        out.print_record(&shapes::line(&line)?)?;
    }
    out.end_rows()?;
    review::warnings(&rules, now_ms())
        .iter()
        .for_each(|warning| render::note(&format!("warning: {warning}")));
    Ok(())
}

fn read(path: &std::path::Path) -> Result<AccessRules> {
    let mut bytes = Vec::new();
    let read = fs::open_input(path)?.take(limits::RELOADED_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(format_args!("cannot read {}", path.display()), &e))?;
    if bytes.len() as u64 > limits::RELOADED_FILE_BYTES {
        let (path, limit) = (path.display(), limits::RELOADED_FILE_BYTES);
        let message =
            format!("{path} is too large: it has more than {limit} bytes, and a daemon would refuse it");
        return Err(Error::new(Reason::TooLarge, message));
    }
    auth_file::parse_bytes(&bytes).map_err(|e| e.context(path.display()))
}

fn rights_of(principal: &Principal) -> String {
    if principal.is_admin {
        return "everything".to_owned();
    }
    let grants: Vec<String> = principal.grants().map(|(tables, role)| format!("{role} {tables}")).collect();
    if grants.is_empty() { "nothing".to_owned() } else { grants.join(", ") }
}

/// The tokens of a principal by the beginning of their hash, with their end.
fn tokens_of(rules: &AccessRules, name: &str) -> Vec<String> {
    let mut tokens: Vec<String> = rules
        .tokens_of(name)
        .map(|token| match token.expires_ms {
            Some(at) if token.has_expired(now_ms()) => {
                format!("{} expired {}", token.hash.short(), format_time(at))
            }
            Some(at) => format!("{} until {}", token.hash.short(), format_time(at)),
            None => token.hash.short(),
        })
        .collect();
    tokens.sort();
    tokens
}
