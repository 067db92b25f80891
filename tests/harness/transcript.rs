//! A reader's answers about a table after a commit, as bytes, so that two readers can be compared.

use driftdb::v1;
use prost::Message;
use tonic::{Status, Streaming};

use super::{Reader, at_seq, reason};

/// The number of keys that `churn` uses.
pub const KEYS: u64 = 24;

/// Asks for rows, counts, drift and differences of a table after a commit. Returns each answer, or its error, as bytes,
/// without the part of the header that describes the reader itself.
pub async fn transcript(reader: &mut Reader, table: &str, seq: u64) -> Vec<(String, Vec<u8>)> {
    let (as_of, name) = (at_seq(seq), || table.to_owned());
    let mut told = Vec::new();
    let get = v1::GetRequest {
        table: name(),
        keys: (0..KEYS).map(|n| format!("k{n:02}")).collect(),
        as_of,
        format: v1::DocumentFormat::Msgpack.into(),
        ..Default::default()
    };
    told.push(("get".to_owned(), one(reader.get(get).await.map(|answer| answer.into_inner()))));
    for condition in ["", "n > 100 AND n < 900", r#"status = "s1""#] {
        let select =
            v1::SelectRequest { table: name(), r#where: condition.into(), as_of, ..Default::default() };
        let fields = v1::SelectRequest { fields: vec!["id".into(), "n".into()], limit: 7, ..select.clone() };
        for request in [select, fields] {
            let stream = reader.select(request).await.map(|answer| answer.into_inner());
            told.push((format!("select {condition}"), all(stream).await));
        }
    }
    let key = format!("k{:02}", seq % KEYS);
    for key in [String::new(), key.clone()] {
        let history = v1::HistoryRequest {
            table: name(),
            key: key.clone(),
            start: at_seq(seq.saturating_sub(60)),
            end: as_of,
            newest_first: seq.is_multiple_of(2),
            with_before: true,
            with_after: true,
            ..Default::default()
        };
        let stream = reader.history(history).await.map(|answer| answer.into_inner());
        told.push((format!("history {key}"), all(stream).await));
    }
    let diff =
        v1::DiffRequest { table: name(), start: at_seq(seq / 2 + 1), end: as_of, ..Default::default() };
    told.push(("diff".to_owned(), all(reader.diff(diff).await.map(|answer| answer.into_inner())).await));
    for statement in [
        format!(r#"SELECT COUNT(*) FROM {table} WHERE status = "s2" AS OF @seq:{seq}"#),
        format!("SELECT _key, _seq, n FROM {table} WHERE n > 5 LIMIT 9 OFFSET 2 AS OF @seq:{seq}"),
        format!(r#"SHOW DRIFT {table} KEY "{key}" TO @seq:{seq}"#),
        format!("SHOW DIFF {table} FROM @seq:{} TO @seq:{seq}", seq / 2 + 1),
    ] {
        let request = v1::ReaderServiceExecuteRequest { statement: statement.clone(), ..Default::default() };
        let stream = reader.execute(request).await.map(|answer| answer.into_inner());
        told.push((statement, all(stream).await));
    }
    told
}

/// A message with a read header.
trait Headed: Message {
    fn header(&mut self) -> &mut Option<v1::ReadHeader>;
}

macro_rules! headed {
    ($($message:ident)*) => {
        $(impl Headed for v1::$message {
            fn header(&mut self) -> &mut Option<v1::ReadHeader> {
                &mut self.header
            }
        })*
    };
}

headed! { GetResponse SelectResponse HistoryResponse DiffResponse ReaderServiceExecuteResponse }

fn one(answer: Result<impl Headed, Status>) -> Vec<u8> {
    match answer {
        Ok(mut message) => {
            if let Some(header) = message.header() {
                header.applied_seq = 0;
            }
            message.encode_length_delimited_to_vec()
        }
        Err(status) => format!("{:?} {}", status.code(), reason(&status)).into_bytes(),
    }
}

async fn all<T: Headed>(stream: Result<Streaming<T>, Status>) -> Vec<u8> {
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(status) => return one(Err::<T, _>(status)),
    };
    let mut told = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => told.extend(one(Ok(message))),
            Ok(None) => return told,
            Err(status) => {
                told.extend(one(Err::<T, _>(status)));
                return told;
            }
        }
    }
}
