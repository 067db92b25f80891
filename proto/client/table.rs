//! A table whose documents are types of serde.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use super::handle::Client;
use super::reasons::document_invalid;
use super::rows::RowStream;
use super::writing::WriteReceipt;
use crate::v1;

/// A table of a database. Documents go in and come out as types of [serde]. JSON has no floats that are NaN or infinite: serde_json writes
/// them as `null`, which in a patch removes the field.
///
/// ```no_run
/// use driftdb::client::Client;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     id: String,
///     status: String,
///     amount: i64,
/// }
///
/// # async fn tour() -> Result<(), tonic::Status> {
/// let client = Client::open("driftdb://127.0.0.1:7401,127.0.0.1:7402")?;
/// let orders = client.table("orders");
/// let order = Order { id: "o1".into(), status: "pending".into(), amount: 100 };
/// let placed = orders.put(&order).await?;
/// orders.patch("o1", &serde_json::json!({ "status": "paid" })).await?;
///
/// let now = orders.get::<Order>("o1").await?.expect("the row exists");
/// assert_eq!(now.document.status, "paid");
/// let then = orders.get_at::<Order>("o1", placed.token.seq).await?.expect("it existed");
/// assert_eq!(then.document.status, "pending");
///
/// let mut large = orders.select::<Order>("amount >= $1 AND status = $2", (50, "paid")).await?;
/// while let Some(row) = large.next().await? {
///     println!("{} since commit {}: {}", row.key, row.seq, row.document.amount);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
}

/// A live row whose document has been read as a type.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedRow<T> {
    /// The primary key. A key of type INT is its decimal text.
    pub key: String,
    /// The commit that last changed the row.
    pub seq: u64,
    /// The content of the row.
    pub document: T,
}

/// The rows of a [`Table::select`].
#[derive(Debug)]
pub struct TypedRows<T> {
    rows: RowStream,
    table: String,
    of: std::marker::PhantomData<fn() -> T>,
}

impl Client {
    /// A table, which need not exist yet.
    pub fn table(&self, name: impl Into<String>) -> Table {
        Table { client: self.clone(), name: name.into() }
    }
}

impl v1::Document {
    /// The JSON of a value, which must be one object.
    ///
    /// # Errors
    /// `DOCUMENT_INVALID` if the value has no JSON.
    pub fn of(value: &impl Serialize) -> Result<v1::Document, Status> {
        let text = serde_json::to_string(value);
        text.map(v1::Document::from)
            .map_err(|e| document_invalid(format!("cannot write a value as JSON: {e}")))
    }

    /// The document as a type.
    ///
    /// # Errors
    /// `DOCUMENT_INVALID` if it is not JSON, or not of the type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Status> {
        let text = self.as_json().ok_or_else(|| document_invalid("the document is not JSON".to_owned()))?;
        serde_json::from_str(text)
            .map_err(|e| document_invalid(format!("a document is not of the expected type: {e}")))
    }
}

impl Table {
    /// The name of the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates a row. `made_keys` has its key, if the writer made it.
    ///
    /// # Errors
    /// `ROW_EXISTS` if a live row has the key, and others of [`Client::apply`].
    pub async fn insert(&self, document: &impl Serialize) -> Result<WriteReceipt, Status> {
        self.apply(v1::Operation::insert(&self.name, v1::Document::of(document)?)).await
    }

    /// Creates a row, or replaces it as a whole.
    ///
    /// # Errors
    /// Those of [`Client::apply`].
    pub async fn put(&self, document: &impl Serialize) -> Result<WriteReceipt, Status> {
        self.apply(v1::Operation::put(&self.name, v1::Document::of(document)?)).await
    }

    /// Changes fields of a row: a merge patch (RFC 7396), in which `null` removes a field.
    ///
    /// # Errors
    /// `ROW_NOT_FOUND` if no live row has the key, and others of [`Client::apply`].
    pub async fn patch(&self, key: &str, patch: &impl Serialize) -> Result<WriteReceipt, Status> {
        self.apply(v1::Operation::patch(&self.name, key, v1::Document::of(patch)?)).await
    }

    /// Deletes a row; its history stays.
    ///
    /// # Errors
    /// `ROW_NOT_FOUND` if no live row has the key, and others of [`Client::apply`].
    pub async fn delete(&self, key: &str) -> Result<WriteReceipt, Status> {
        self.apply(v1::Operation::delete(&self.name, key)).await
    }

    async fn apply(&self, operation: v1::Operation) -> Result<WriteReceipt, Status> {
        self.client.apply(vec![operation]).await
    }

    /// The row with a key, now.
    ///
    /// # Errors
    /// `DOCUMENT_INVALID` if its document is not of the type, and others of [`Client::get_rows`].
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<TypedRow<T>>, Status> {
        self.read(key, None).await
    }

    /// The row with a key, as it was after a commit.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub async fn get_at<T: DeserializeOwned>(
        &self,
        key: &str,
        seq: u64,
    ) -> Result<Option<TypedRow<T>>, Status> {
        self.read(key, Some(v1::AsOf::seq(seq))).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        key: &str,
        as_of: Option<v1::AsOf>,
    ) -> Result<Option<TypedRow<T>>, Status> {
        let (table, keys) = (self.name.clone(), vec![key.to_owned()]);
        let request = v1::GetRequest { table, keys, as_of, ..Default::default() };
        let row = self.client.get_rows(request).await?.rows.pop();
        row.map(|row| typed(&self.name, row)).transpose()
    }

    /// The rows that match a condition, in the order of their keys. The parameters are a tuple, an array or a slice: the values of `$1`,
    /// `$2`, …; `()` for none.
    ///
    /// # Errors
    /// `QUERY_SYNTAX`, `QUERY_INVALID`, and others of [`Client::select`].
    pub async fn select<T: DeserializeOwned>(
        &self,
        condition: &str,
        params: impl Serialize,
    ) -> Result<TypedRows<T>, Status> {
        let request = v1::SelectRequest {
            table: self.name.clone(),
            r#where: condition.to_owned(),
            params: values(&params)?,
            ..Default::default()
        };
        self.select_request(request).await
    }

    /// Like [`Table::select`], with all options of the call. The table of the request is replaced by this one.
    ///
    /// # Errors
    /// As [`Table::select`].
    pub async fn select_request<T: DeserializeOwned>(
        &self,
        request: v1::SelectRequest,
    ) -> Result<TypedRows<T>, Status> {
        let rows = self.client.select(v1::SelectRequest { table: self.name.clone(), ..request }).await?;
        Ok(TypedRows { rows, table: self.name.clone(), of: std::marker::PhantomData })
    }
}

impl<T: DeserializeOwned> TypedRows<T> {
    /// The point in time of the rows.
    pub fn header(&self) -> &v1::ReadHeader {
        self.rows.header()
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// `DOCUMENT_INVALID` if its document is not of the type, and those of [`RowStream::next`].
    pub async fn next(&mut self) -> Result<Option<TypedRow<T>>, Status> {
        let row = self.rows.next().await?;
        row.map(|row| typed(&self.table, row)).transpose()
    }

    /// Collects the remaining rows in memory.
    ///
    /// # Errors
    /// As [`TypedRows::next`].
    pub async fn collect(mut self) -> Result<Vec<TypedRow<T>>, Status> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

fn typed<T: DeserializeOwned>(table: &str, row: v1::Row) -> Result<TypedRow<T>, Status> {
    let v1::Row { key, seq, document, .. } = row;
    let text = document.as_ref().and_then(v1::Document::as_json).unwrap_or_default();
    let wrong = |e| document_invalid(format!("row {key:?} of {table} is not of the expected type: {e}"));
    let document = serde_json::from_str(text).map_err(wrong)?;
    Ok(TypedRow { key, seq, document })
}

/// Each value of a list as JSON.
fn values(params: &impl Serialize) -> Result<Vec<String>, Status> {
    let wrong = |e| document_invalid(format!("cannot write a parameter as JSON: {e}"));
    match serde_json::to_value(params).map_err(wrong)? {
        serde_json::Value::Null => Ok(Vec::new()),
        serde_json::Value::Array(values) => Ok(values.iter().map(ToString::to_string).collect()),
        other => Ok(vec![other.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn parameters_are_written_one_by_one() {
        assert_eq!(values(&()).unwrap(), Vec::<String>::new());
        assert_eq!(values(&(50, "paid", u64::MAX)).unwrap(), ["50", "\"paid\"", "18446744073709551615"]);
        assert_eq!(values(&[1, 2]).unwrap(), ["1", "2"]);
        assert_eq!(values(&"x").unwrap(), ["\"x\""]);
    }

    #[test]
    fn floats_that_json_does_not_have_are_null() {
        let document = v1::Document::of(&BTreeMap::from([("n", f64::NAN)])).unwrap();
        assert_eq!(document.as_json(), Some(r#"{"n":null}"#));
        assert_eq!(values(&[f64::INFINITY]).unwrap(), ["null"]);
    }

    #[test]
    fn documents_are_types_of_serde() {
        let document = v1::Document::of(&BTreeMap::from([("n", u64::MAX)])).unwrap();
        assert_eq!(document.as_json(), Some(r#"{"n":18446744073709551615}"#));
        assert_eq!(document.parse::<BTreeMap<String, u64>>().unwrap()["n"], u64::MAX);
        assert!(document.parse::<BTreeMap<String, String>>().is_err());
        assert!(v1::Document::of(&BTreeMap::from([((1, 2), 3)])).is_err());
    }
}
