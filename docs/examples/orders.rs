//! DriftDB from Rust: places an order, pays it, and reads it as it is now and as it was.

use driftdb::client::Client;
use driftdb::v1::{AsOf, CreateTableRequest, GetRequest, SelectRequest};

#[tokio::main]
async fn main() -> Result<(), tonic::Status> {
    let address = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let writer = address("DRIFTDB_WRITER", "127.0.0.1:7401");
    let client = Client::new([writer], [address("DRIFTDB_READER", "127.0.0.1:7402")]);

    let (table, primary_key) = ("orders".to_owned(), "id".to_owned());
    let create = CreateTableRequest { table, primary_key, if_not_exists: true, ..Default::default() };
    client.create_table(create).await?;
    let placed = client.put("orders", r#"{"id": "o1", "status": "pending", "amount": 100}"#).await?;
    client.patch("orders", "o1", r#"{"status": "paid"}"#).await?;

    // The reader waits until it has this client's writes.
    if let Some(order) = client.get("orders", "o1").await? {
        println!("now: {}", order.json().unwrap_or_default());
    }
    let (table, keys) = ("orders".to_owned(), vec!["o1".to_owned()]);
    let past = GetRequest { table, keys, as_of: Some(AsOf::seq(placed.seq)), ..Default::default() };
    for order in client.get_rows(past).await?.rows {
        println!("then: {}", order.json().unwrap_or_default());
    }

    let condition = "status = $1 AND amount >= 100".to_owned();
    let params = vec![r#""paid""#.to_owned()];
    let paid = SelectRequest { table: "orders".to_owned(), r#where: condition, params, ..Default::default() };
    let mut orders = client.select(paid).await?;
    while let Some(order) = orders.next().await? {
        println!("paid: {}", order.key);
    }
    Ok(())
}
