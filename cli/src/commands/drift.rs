//! `drift`: the history of a row or a table.

use driftdb::v1;

use crate::args::Drift;
use crate::client::Client;
use crate::commands::moment;
use crate::exit::Outcome;
use crate::render::{self, Output};
use crate::shapes;

/// Prints the events as they arrive, oldest first.
pub async fn run(args: Drift, client: &mut Client, out: &mut Output) -> Outcome {
    let request = v1::HistoryRequest {
        start: moment(args.from.as_deref())?,
        end: moment(args.to.as_deref())?,
        table: args.table,
        key: args.key.unwrap_or_default(),
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    let mut truncated = false;
    let mut answers = client.reading().await?.history(request).await?;
    while let Some(answer) = answers.next().await? {
        truncated |= answer.truncated;
        for commit in answer.commits {
            for line in shapes::drift(commit)? {
                out.record(&line)?;
            }
        }
    }
    if truncated {
        render::note("note: older history was discarded by a compaction");
    }
    Ok(())
}
