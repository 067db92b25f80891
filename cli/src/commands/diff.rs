//! `diff`: the net difference between two points in time.

use driftdb::v1;

use crate::args::Diff;
use crate::client::Client;
use crate::exit::Outcome;
use crate::render::{Answer, Output};
use crate::{shapes, statement};

/// Prints the rows that differ, as they arrive.
pub async fn run(args: Diff, client: &mut Client, out: &mut Output) -> Outcome {
    let request = v1::DiffRequest {
        start: Some(statement::point(&args.from)?),
        end: Some(statement::point(&args.to)?),
        table: args.table,
        keys: args.key,
        ..Default::default()
    };
    let mut answers = client.reading().await?.diff(request).await?;
    while let Some(answer) = answers.next().await? {
        for row in answer.rows {
            out.answer(Answer::Difference(shapes::difference(row)?))?;
        }
    }
    Ok(())
}
