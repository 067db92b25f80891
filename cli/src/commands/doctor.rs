//! `doctor`: checks a data directory without daemons.

use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason, counted};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::check::doctor::{self, Severity};
use serde::Serialize;

use crate::args::{DoctorArgs, GlobalArgs};
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use crate::shapes;

#[derive(Serialize)]
struct FindingJson {
    severity: &'static str,
    file: String,
    offset: u64,
    message: String,
    remedy: &'static str,
}

#[derive(Serialize)]
struct DoctorSummary {
    tables: u64,
    files: u64,
    frames: u64,
    damage: u64,
    notes: u64,
    repaired: u64,
}

/// Prints each finding and then the summary. Fails if damage was found.
pub(crate) async fn run(args: &DoctorArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let Some(data) = &global.data else {
        return Err(Failure::Usage("doctor needs a data directory: pass it with -d DIR".to_owned()));
    };
    if let Some(url) = data.to_str().filter(|data| data.contains("://")) {
        BucketStore::check_url(url)?;
        let message = format!("doctor checks a data directory: run `driftctl backup verify {url} --deep`");
        return Err(Error::new(Reason::NotSupported, message).into());
    }
    let (dir, repair) = (DataDir::new(data), args.repair);
    let examined = tokio::task::spawn_blocking(move || {
        let mut findings = Vec::new();
        let examined =
            doctor::examine(OsFileSystem::shared(), &dir, repair, &mut |finding| findings.push(finding));
        (findings, examined)
    });
    let (findings, examined) =
        examined.await.map_err(|e| Error::new(Reason::Internal, format!("the check failed: {e}")))?;
    for doctor::Finding { severity, file, offset, message, remedy } in findings {
        let severity = match severity {
            Severity::Damage => "damage",
            Severity::Note => "note",
            Severity::Repair => "repair",
        };
        out.print_record(&shapes::line(&FindingJson { severity, file, offset, message, remedy })?)?;
    }
    out.end_result()?;
    let doctor::ExamSummary { tables, files, frames, damage, notes, repaired } = examined?;
    out.print_record(&shapes::line(&DoctorSummary { tables, files, frames, damage, notes, repaired })?)?;
    if repair && repaired == 0 && damage > 0 {
        render::note("note: nothing can be repaired automatically; nothing was changed");
    }
    if damage == 0 {
        return Ok(());
    }
    out.finish_with(Error::new(Reason::Corrupt, format!("found {}", counted(damage, "problem"))))
}
