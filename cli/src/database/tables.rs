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
    list(client, v1::ListTablesRequest { as_of, ..Default::default() }).await
}

/// As [`tables_at`], with the tables that were dropped before.
pub(crate) async fn all_tables_at(
    client: &Client,
    as_of: Option<v1::AsOf>,
) -> Result<(v1::ReadHeader, Vec<v1::TableInfo>)> {
    list(client, v1::ListTablesRequest { as_of, with_dropped: true, ..Default::default() }).await
}

async fn list(
    client: &Client,
    request: v1::ListTablesRequest,
) -> Result<(v1::ReadHeader, Vec<v1::TableInfo>)> {
    let freshness = client.token().map(v1::Freshness::from);
    let mut request = v1::ListTablesRequest { freshness, ..request };
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

/// The type of a table's keys.
pub(crate) async fn key_type_of(client: &Client, table: &str) -> Result<v1::KeyType> {
    let freshness = client.token().map(v1::Freshness::from);
    let request = v1::DescribeTableRequest { table: table.to_owned(), freshness, ..Default::default() };
    let call = |mut reader: ReaderApi| {
        let request = request.clone();
        async move { reader.describe_table(request).await }
    };
    let described = client.read(call).await.map_err(|s| to_error(&s))?.into_inner();
    Ok(described.table.unwrap_or_default().key_type())
}
