//! Tests of the parser as a whole; the golden statements are in `tests/driftql.rs`.

use super::*;

#[test]
fn the_statements_of_the_first_version_all_work() {
    for text in [
        "CREATE TABLE users (pk=id, INDEX(email, status))",
        r#"INSERT INTO users {"id": "user1", "email": "alice@example.com", "status": "active"}"#,
        "CREATE TABLE orders (pk=id, INDEX(status, customer_id))",
        r#"INSERT INTO orders {"id": "order1", "status": "pending", "amount": 100}"#,
        r#"PATCH orders KEY "order1" SET {"status": "paid"}"#,
        r#"SOFT DELETE FROM orders KEY "order1""#,
        r#"SELECT * FROM orders WHERE status="paid" AS OF "2025-01-01T00:00:00Z""#,
        r#"SELECT * FROM orders WHERE customer_id="cust1" AS OF "@seq:1000""#,
        r#"SHOW DRIFT orders KEY "order1""#,
        "SNAPSHOT orders",
        "COMPACT orders",
    ] {
        parse(text, &[]).unwrap_or_else(|error| panic!("{}", report::describe(&error, text)));
        parse(&format!("{} ; -- done", text), &[]).unwrap();
    }
}
