//! The steps of scenarios that call the database.

use driftdb::client::Client;
use driftdb::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::scenario::{Scenario, changes_of, document, expect_fields};

impl Scenario {
    /// Does one step.
    pub async fn perform(&mut self, step: &Value) -> Result<(), Status> {
        if self.perform_outside(step).await? {
            return Ok(());
        }
        let client = self.clients[step["client"].as_str().unwrap_or("main")].clone();
        match text(step, "do") {
            "create_table" => {
                create_table(&client, step).await?;
                let made = describe(&client, step).await?.created_seq;
                self.save(step, made);
            }
            "drop_table" => drop(client.execute(&format!("DROP TABLE {}", text(step, "table")), &[]).await?),
            "describe" => {
                let info = describe(&client, step).await?;
                expect_fields(&table_value(&info), &step["expect"]);
            }
            "tables" => tables(&client, step).await?,
            "insert" | "put" | "patch" | "delete" | "revert" | "commit" => {
                let seq = write(&client, step).await?;
                self.save(step, seq);
            }
            "find_commit" => {
                let found = client.find_commit(text(step, "request_id")).await?;
                assert_eq!(json!(found.map(|token| token.seq)), step["expect"]);
            }
            "get" => get(&client, step).await?,
            "get_many" => get_many(&client, step).await?,
            "select" | "select_sizes" | "count" => select(&client, step).await?,
            "history" => history(&client, step).await?,
            "diff" => diff(&client, step).await?,
            "query" => query(&client, step).await?,
            "execute" => {
                let params = params(step);
                let params: Vec<&str> = params.iter().map(String::as_str).collect();
                let executed = client.execute(text(step, "statement"), &params).await?;
                if let Some(rows) = step["rows"].as_u64() {
                    assert_eq!(executed.bulk.unwrap().rows, rows);
                }
                self.save(step, executed.token.map_or(0, |token| token.seq));
            }
            other => panic!("no step is called {other:?}"),
        }
        Ok(())
    }
}

fn text<'a>(step: &'a Value, name: &str) -> &'a str {
    step[name].as_str().unwrap_or_default()
}

fn params(step: &Value) -> Vec<String> {
    step["params"].as_array().into_iter().flatten().map(ToString::to_string).collect()
}

/// A key as the API takes it.
fn key(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn as_of(value: &Value) -> Option<v1::AsOf> {
    value.as_u64().map(v1::AsOf::seq)
}

fn key_type(name: &str) -> i32 {
    if name == "INT" { v1::KeyType::Int.into() } else { v1::KeyType::String.into() }
}

async fn create_table(client: &Client, step: &Value) -> Result<(), Status> {
    let mut request = v1::CreateTableRequest {
        table: text(step, "table").to_owned(),
        if_not_exists: step["if_not_exists"] == json!(true),
        auto_key: step["auto_key"] == json!(true),
        ..Default::default()
    };
    match &step["primary_key"] {
        Value::Array(columns) => {
            let column = |column: &Value| {
                let (field, kind) = match column {
                    Value::Array(pair) => (&pair[0], pair[1].as_str().unwrap()),
                    name => (name, "STRING"),
                };
                v1::KeyColumn { field: key(field), r#type: key_type(kind) }
            };
            request.key_columns = columns.iter().map(column).collect();
        }
        field => {
            request.primary_key = field.as_str().unwrap_or("id").to_owned();
            request.key_type = key_type(text(step, "key_type"));
        }
    }
    for index in step["indexes"].as_array().into_iter().flatten() {
        match index {
            Value::Array(paths) => {
                request.composite_indexes.push(v1::CompositeIndex { paths: paths.iter().map(key).collect() });
            }
            path => request.indexes.push(key(path)),
        }
    }
    client.create_table(request).await.map(drop)
}

async fn describe(client: &Client, step: &Value) -> Result<v1::TableInfo, Status> {
    let statement = format!("DESCRIBE {}", text(step, "table"));
    let request = v1::ReaderServiceExecuteRequest { statement, ..Default::default() };
    let mut answers = client.query(request).await?;
    while let Some(answer) = answers.next().await? {
        if let Some(v1::reader_service_execute_response::Result::Table(info)) = answer.result {
            return Ok(info);
        }
    }
    panic!("no table was described");
}

fn table_value(info: &v1::TableInfo) -> Value {
    let single = info.indexes.iter().map(|path| vec![path.clone()]);
    let composite = info.composite_indexes.iter().map(|index| index.paths.clone());
    let indexes: Vec<Vec<String>> = single.chain(composite).collect();
    let kind = match info.key_type() {
        v1::KeyType::Int => "INT",
        v1::KeyType::Composite => "COMPOSITE",
        _ => "STRING",
    };
    json!({ "primary_key": info.primary_key, "key_type": kind, "rows": info.rows, "indexes": indexes })
}

async fn tables(client: &Client, step: &Value) -> Result<(), Status> {
    let request =
        v1::ReaderServiceExecuteRequest { statement: "SHOW TABLES".to_owned(), ..Default::default() };
    let mut answers = client.query(request).await?;
    let mut names = Vec::new();
    while let Some(answer) = answers.next().await? {
        if let Some(v1::reader_service_execute_response::Result::Table(info)) = answer.result {
            names.push(info.table);
        }
    }
    assert_eq!(json!(names), step["expect"]);
    Ok(())
}

/// The operation of a step, or of an item of a commit's list in the same form.
fn operation(action: &str, table: &str, key: &str, value: &Value) -> Result<v1::Operation, Status> {
    Ok(match action {
        "insert" => v1::Operation::insert(table, v1::Document::of(value)?),
        "put" => v1::Operation::put(table, v1::Document::of(value)?),
        "patch" => v1::Operation::patch(table, key, v1::Document::of(value)?),
        "delete" => v1::Operation::delete(table, key),
        "revert" => v1::Operation::revert(table, key, as_of(value).unwrap()),
        other => panic!("no operation is called {other:?}"),
    })
}

fn precondition(condition: &[Value]) -> v1::Precondition {
    use v1::precondition::Check;
    let (kind, table) = (condition[0].as_str().unwrap(), condition[1].as_str().unwrap().to_owned());
    let seq = |at: usize| condition[at].as_u64().unwrap();
    if kind == "if_no_change" {
        let params = condition[3].as_array().unwrap().iter().map(ToString::to_string).collect();
        let check = Some(Check::UnchangedSince(seq(4)));
        return v1::Precondition { table, r#where: key(&condition[2]), params, check, ..Default::default() };
    }
    let check = match kind {
        "if_seq" => Check::SeqIs(seq(3)),
        "if_unchanged" => Check::UnchangedSince(seq(3)),
        "if_exists" => Check::Exists(condition[3].as_bool().unwrap()),
        other => panic!("no condition is called {other:?}"),
    };
    v1::Precondition { table, key: key(&condition[2]), check: Some(check), ..Default::default() }
}

/// Makes a commit, checks its receipt, and returns its seq. A single change goes through `Table`, if that has the call.
async fn write(client: &Client, step: &Value) -> Result<u64, Status> {
    let table = client.table(text(step, "table"));
    let is_plain = step["reason"].is_null() && step["if_seq"].is_null();
    let receipt = match text(step, "do") {
        "insert" if is_plain => table.insert(&step["document"]).await?,
        "put" if is_plain => table.put(&step["document"]).await?,
        "patch" if is_plain => table.patch(&key(&step["key"]), &step["document"]).await?,
        "delete" if is_plain => table.delete(&key(&step["key"])).await?,
        _ => client.apply(request(step)?).await?,
    };
    if let Some(replayed) = step["replayed"].as_bool() {
        assert_eq!(receipt.replayed, replayed);
    }
    if let Some(keys) = step["keys"].as_u64() {
        let made: std::collections::BTreeSet<&String> =
            receipt.made_keys.iter().map(|made| &made.key).collect();
        assert_eq!(made.len() as u64, keys);
    }
    if let Some(same) = step["same_as"].as_u64() {
        assert_eq!(receipt.token.seq, same);
    }
    Ok(receipt.token.seq)
}

fn request(step: &Value) -> Result<v1::ApplyRequest, Status> {
    let options = v1::CommitOptions {
        request_id: text(step, "request_id").to_owned(),
        reason: text(step, "reason").to_owned(),
        actor: text(step, "actor").to_owned(),
        ..Default::default()
    };
    let mut request = v1::ApplyRequest { options: Some(options), ..Default::default() };
    if text(step, "do") != "commit" {
        let value = if step["to"].is_null() { &step["document"] } else { &step["to"] };
        let key = key(&step["key"]);
        request.operations.push(operation(text(step, "do"), text(step, "table"), &key, value)?);
        if let Some(seq) = step["if_seq"].as_u64() {
            let check = Some(v1::precondition::Check::SeqIs(seq));
            let table = text(step, "table").to_owned();
            request.preconditions.push(v1::Precondition { table, key, check, ..Default::default() });
        }
        return Ok(request);
    }
    for item in step["operations"].as_array().unwrap() {
        let [action, table, rest @ ..] = &item.as_array().unwrap()[..] else {
            panic!("not an operation: {item}")
        };
        let (key, value) = match rest {
            [document] => (String::new(), document),
            [row, value] => (key(row), value),
            _ => panic!("not an operation: {item}"),
        };
        request.operations.push(operation(action.as_str().unwrap(), table.as_str().unwrap(), &key, value)?);
    }
    for item in step["conditions"].as_array().into_iter().flatten() {
        request.preconditions.push(precondition(item.as_array().unwrap()));
    }
    Ok(request)
}

async fn get(client: &Client, step: &Value) -> Result<(), Status> {
    let (table, key) = (client.table(text(step, "table")), key(&step["key"]));
    let row = match step["as_of"].as_u64() {
        Some(seq) => table.get_at::<Value>(&key, seq).await?,
        None => table.get::<Value>(&key).await?,
    };
    if !step["error"].is_null() {
        return Ok(());
    }
    let seq = row.as_ref().map(|row| row.seq);
    assert_eq!(row.map_or(Value::Null, |row| row.document), step["expect"]);
    assert!(step["seq"].is_null() || json!(seq) == step["seq"]);
    Ok(())
}

async fn get_many(client: &Client, step: &Value) -> Result<(), Status> {
    let keys = step["keys"].as_array().unwrap().iter().map(key).collect();
    let request = v1::GetRequest { table: text(step, "table").to_owned(), keys, ..Default::default() };
    let rows = client.get_rows(request).await?.rows;
    let found: Vec<Value> = rows.iter().map(|row| document(row.document.as_ref())).collect();
    assert_eq!(json!(found), step["expect"]);
    Ok(())
}

async fn select(client: &Client, step: &Value) -> Result<(), Status> {
    let what = text(step, "do");
    let request = v1::SelectRequest {
        r#where: text(step, "where").to_owned(),
        params: params(step),
        as_of: as_of(&step["as_of"]),
        fields: step["fields"].as_array().into_iter().flatten().map(key).collect(),
        limit: step["limit"].as_u64().unwrap_or(0),
        offset: step["offset"].as_u64().unwrap_or(0),
        order_by: text(step, "order_by").to_owned(),
        count_only: what == "count",
        ..Default::default()
    };
    let table = text(step, "table");
    if what == "count" {
        let mut rows = client.select(v1::SelectRequest { table: table.to_owned(), ..request }).await?;
        while rows.next().await?.is_some() {}
        assert_eq!(json!(rows.count()), step["expect"]);
        return Ok(());
    }
    let rows = client.table(table).select_request::<Value>(request).await?.collect().await?;
    if what == "select_sizes" {
        let sizes: Vec<usize> = rows.iter().map(|row| row.document["pad"].as_str().unwrap().len()).collect();
        assert_eq!(json!(sizes.len()), step["rows"]);
        assert!(sizes.iter().all(|size| json!(size) == step["pad"]));
        return Ok(());
    }
    let found: Vec<Value> = rows.into_iter().map(|row| row.document).collect();
    assert_eq!(json!(found), step["expect"]);
    Ok(())
}

async fn history(client: &Client, step: &Value) -> Result<(), Status> {
    let request = v1::HistoryRequest {
        table: text(step, "table").to_owned(),
        key: if step["key"].is_null() { String::new() } else { key(&step["key"]) },
        start: as_of(&step["start"]),
        end: as_of(&step["end"]),
        newest_first: step["newest_first"] == json!(true),
        with_before: step["before"] == json!(true),
        with_after: step["after"] == json!(true),
        limit: step["limit"].as_u64().unwrap_or(0),
        ..Default::default()
    };
    let mut answers = client.history(request).await?;
    let mut changes = Vec::new();
    while let Some(answer) = answers.next().await? {
        changes.extend(answer.commits.iter().flat_map(changes_of));
    }
    expect_all(&changes, step);
    Ok(())
}

async fn diff(client: &Client, step: &Value) -> Result<(), Status> {
    let request = v1::DiffRequest {
        table: text(step, "table").to_owned(),
        start: as_of(&step["start"]),
        end: as_of(&step["end"]),
        ..Default::default()
    };
    let mut answers = client.diff(request).await?;
    let mut rows = Vec::new();
    while let Some(answer) = answers.next().await? {
        rows.extend(answer.rows.iter().map(|row| {
            let patch: Value = serde_json::from_str(&row.json_patch).unwrap_or(Value::Null);
            let (before, after) = (document(row.before.as_ref()), document(row.after.as_ref()));
            json!({ "key": row.key, "before": before, "after": after, "patch": patch })
        }));
    }
    expect_all(&rows, step);
    Ok(())
}

fn expect_all(found: &[Value], step: &Value) {
    let expected = step["expect"].as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    found.iter().zip(expected).for_each(|(found, expected)| expect_fields(found, expected));
}

async fn query(client: &Client, step: &Value) -> Result<(), Status> {
    use v1::reader_service_execute_response::Result as Answered;
    let request = v1::ReaderServiceExecuteRequest {
        statement: text(step, "statement").to_owned(),
        params: params(step),
        as_of: as_of(&step["as_of"]),
        ..Default::default()
    };
    let mut answers = client.query(request).await?;
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await? {
        match answer.result {
            Some(Answered::Rows(batch)) => {
                found.extend(batch.rows.iter().map(|row| document(row.document.as_ref())));
            }
            Some(Answered::Results(batch)) => {
                found.extend(batch.results.iter().map(|result| document(Some(result))));
            }
            Some(Answered::Count(count)) => found.push(json!(count)),
            Some(Answered::Commit(commit)) => found.push(json!(commit.seq)),
            _ => {}
        }
    }
    if let Some(length) = step["expect_length"].as_u64() {
        assert_eq!(found.len() as u64, length);
    } else {
        assert_eq!(json!(found), step["expect"]);
    }
    Ok(())
}
