//! `select`: the rows that match a condition, in key order.

use driftdb::v1;

use crate::args::Select;
use crate::client::{Client, told};
use crate::commands::moment;
use crate::exit::{Failure, Outcome};
use crate::render::Output;
use crate::shapes;

/// Prints the rows as they arrive.
pub async fn run(args: Select, client: &mut Client, out: &mut Output) -> Outcome {
    let request = v1::SelectRequest {
        as_of: moment(args.as_of.as_deref())?,
        table: args.table,
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        fields: args.fields,
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    let condition = args.condition.unwrap_or_default();
    let rows = client.reading().await?.select(request).await;
    let mut rows = rows.map_err(|status| Failure::in_text(told(&status), &condition))?;
    while let Some(row) = rows.next().await? {
        out.record(&shapes::row(row, args.meta)?)?;
    }
    Ok(())
}
