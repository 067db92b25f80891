//! `select`: the rows that match, in the order of keys.

use driftdb::v1;

use crate::args::Select;
use crate::client::{Client, Reader};
use crate::commands::moment;
use crate::exit::{Failure, Outcome};
use crate::render::Output;
use crate::shapes;

/// Prints the rows as they arrive.
pub async fn run(args: Select, client: &mut Client, out: &mut Output) -> Outcome {
    let request = v1::SelectRequest {
        as_of: moment(args.as_of.as_deref())?,
        freshness: client.freshness().await?,
        table: args.table,
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        fields: args.fields,
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    let call = async |mut reader: Reader| reader.select(request.clone()).await;
    let condition = args.condition.unwrap_or_default();
    let answers = client.read_stream(call).await;
    let mut answers = answers.map_err(|error| Failure::in_text(error, &condition))?;
    while let Some(answer) = answers.next().await? {
        for row in answer.rows {
            out.record(&shapes::row(row, args.meta)?)?;
        }
    }
    Ok(())
}
