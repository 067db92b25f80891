//! The reading client of `bench` and the history that it reads. Every response is compared with what was written.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tonic::transport::Channel;

use super::load::Call;
use super::writes::put_order;
use crate::database::{ReaderApi, WriterApi, reader_on};
use crate::errors::to_error;
use crate::orders::{SplitMix64, id};
use crate::render::ProgressLine;

/// The number of rows in a commit of the history.
const BATCH: u32 = 1000;

/// A table whose rows have several versions.
#[derive(Debug)]
pub(crate) struct VersionedTable {
    table: String,
    keys: u32,
    /// For each batch of rows, the seqs of the commits that wrote its versions, in order.
    commits: Vec<Vec<u64>>,
    /// The seq from which every row exists.
    whole: u64,
    last: u64,
    epoch: u64,
}

impl VersionedTable {
    /// Writes the history.
    pub(crate) async fn load(
        writer: &mut WriterApi,
        table: &str,
        keys: u32,
        versions: u32,
    ) -> Result<VersionedTable> {
        let mut history = VersionedTable {
            table: table.to_owned(),
            keys,
            commits: vec![Vec::new(); usize::try_from(keys.div_ceil(BATCH)).unwrap_or_default()],
            whole: 0,
            last: 0,
            epoch: 0,
        };
        let mut progress = ProgressLine::default();
        for version in 0..versions {
            for (first, commits) in (0..keys).step_by(BATCH as usize).zip(&mut history.commits) {
                let rows = first..keys.min(first + BATCH);
                let operations = rows.map(|row| put_order(table, row, version)).collect::<Result<_>>()?;
                let request = v1::ApplyRequest { operations, ..Default::default() };
                let answer = writer.apply(request).await.map_err(|s| to_error(&s))?.into_inner();
                let token = answer.token.unwrap_or_default();
                commits.push(token.seq);
                (history.last, history.epoch) = (token.seq, token.epoch);
            }
            if version == 0 {
                history.whole = history.last;
            }
            progress.show(format_args!("history: version {} of {versions}", version + 1));
        }
        Ok(history)
    }

    /// The number of events in the history.
    pub(crate) fn events(&self) -> u64 {
        let versions = self.commits.first().map_or(0, Vec::len) as u64;
        u64::from(self.keys) * versions
    }

    /// The seq of the commit that wrote the version of a row at `seq`.
    fn written(&self, row: u32, seq: u64) -> Option<u64> {
        let commits = self.commits.get(usize::try_from(row / BATCH).ok()?)?;
        let later = commits.partition_point(|commit| *commit <= seq);
        commits.get(later.checked_sub(1)?).copied()
    }

    /// Waits until a reader has applied the whole history.
    pub(crate) async fn await_reader(&self, channels: &[Channel]) -> Result<()> {
        let Some(channel) = channels.first().cloned() else { return Ok(()) };
        let freshness = v1::Freshness {
            min_seq: self.last,
            epoch: self.epoch,
            wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..Default::default()
        };
        let request = v1::GetRequest {
            table: self.table.clone(),
            keys: vec![id(0)],
            freshness: Some(freshness),
            ..Default::default()
        };
        reader_on(channel).get(request).await.map(drop).map_err(|s| to_error(&s))
    }

    /// Clients, spread over connections, that read now or at random points in the past.
    pub(crate) fn clients(
        self: &Arc<VersionedTable>,
        channels: &[Channel],
        count: usize,
        past: bool,
    ) -> Vec<ReadClient> {
        let channels = channels.iter().cycle().take(count);
        let client = |(channel, seed): (&Channel, u64)| ReadClient {
            reader: reader_on(channel.clone()),
            history: self.clone(),
            past,
            random: SplitMix64::new(seed),
        };
        channels.zip(1..).map(client).collect()
    }
}

/// A client that reads one row per call.
#[derive(Debug)]
pub(crate) struct ReadClient {
    reader: ReaderApi,
    history: Arc<VersionedTable>,
    past: bool,
    random: SplitMix64,
}

impl Call for ReadClient {
    async fn call(&mut self) -> Result<()> {
        let history = &self.history;
        let row = u32::try_from(self.random.below(history.keys.into())).unwrap_or_default();
        let moment = match self.past {
            true => history.whole + self.random.below(history.last - history.whole + 1),
            false => history.last,
        };
        let at = v1::as_of::At::Seq(moment);
        let key = id(row.into());
        let request = v1::GetRequest {
            table: history.table.clone(),
            keys: vec![key.clone()],
            as_of: self.past.then_some(v1::AsOf { at: Some(at) }),
            format: v1::DocumentFormat::Msgpack.into(),
            ..Default::default()
        };
        let answer = self.reader.get(request).await.map_err(|s| to_error(&s))?.into_inner();
        let expected = history.written(row, moment);
        let right = match answer.rows.as_slice() {
            [found] => found.key == key && Some(found.seq) == expected && found.document.is_some(),
            _ => false,
        };
        if right {
            return Ok(());
        }
        let found: Vec<u64> = answer.rows.iter().map(|row| row.seq).collect();
        let message =
            format!("wrong result: {key} as of seq {moment} has seq {found:?}, expected {expected:?}");
        Err(Error::new(Reason::Internal, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_row_at_a_seq_is_known() {
        let commits = vec![vec![5, 8, 12], vec![6, 9, 13]];
        let history = VersionedTable { table: "t".into(), keys: 1500, commits, whole: 6, last: 13, epoch: 1 };
        for (row, seq, commit) in [
            (0, 6, Some(5)),
            (0, 8, Some(8)),
            (999, 11, Some(8)),
            (1000, 11, Some(9)),
            (1499, 13, Some(13)),
            (1000, 5, None),
        ] {
            assert_eq!(history.written(row, seq), commit, "row {row} at {seq}");
        }
        assert_eq!(history.events(), 4500);
    }
}
