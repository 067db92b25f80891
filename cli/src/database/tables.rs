//! The tables of the database at one point in time, read page by page.

use driftdb::client::Client;
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};

use super::ReaderApi;
use crate::errors::to_error;

/// The tables at a point in time, and that point.
pub(crate) async fn tables_at(
    client: &Client,
    as_of: Option<v1::AsOf>,
) -> Result<(v1::ReadHeader, Vec<v1::TableInfo>)> {
    let freshness = client.token().map(v1::Freshness::from);
    let mut request = v1::ListTablesRequest { as_of, freshness, ..Default::default() };
    let mut tables = Vec::new();
    loop {
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.list_tables(request).await }
        };
        let page = client.read(call).await.map_err(|s| to_error(&s))?.into_inner();
        let header = page.header.unwrap_or_default();
        tables.extend(page.tables);
        if page.next_page_token.is_empty() {
            return Ok((header, tables));
        }
        if page.next_page_token == request.page_token {
            return Err(Error::new(Reason::Internal, "the reader returned the same page of tables twice"));
        }
        // Read all pages at the point in time of the first.
        request.as_of = Some(v1::AsOf::seq(header.read_seq));
        request.page_token = page.next_page_token;
    }
}
