//! How far the writer's bucket is, as `status` shows it.

use driftdb::v1;
use driftdb_common::error::Result;
use serde::Serialize;

use crate::shapes;

/// How far the bucket is.
#[derive(Serialize)]
pub(super) struct BucketJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
    ack: &'static str,
    last_seq: u64,
    last_time: String,
    chunk: u64,
    lag_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

impl BucketJson {
    pub(super) fn new(found: v1::BucketState) -> Result<BucketJson> {
        let v1::BucketState { url, sync, last_seq, last_time, chunk, lag_ms, problem } = found;
        let ack = if sync { "sync" } else { "async" };
        let last_time = shapes::time(last_time.as_ref())?;
        Ok(BucketJson { url, ack, last_seq, last_time, chunk, lag_ms, problem })
    }

    pub(super) fn for_people(&self) -> String {
        let BucketJson { url, ack, last_seq, chunk, lag_ms, problem, .. } = self;
        let lag = match lag_ms {
            0 => "nothing is missing".to_owned(),
            ms => format!("{ms} ms behind"),
        };
        let url = if url.is_empty() { String::new() } else { format!(" {url}") };
        let mut text = format!("        bucket{url} ({ack}): commit {last_seq}, chunk {chunk}, {lag}\n");
        if !problem.is_empty() {
            text += &format!("        {problem}\n");
        }
        text
    }
}
