//! What a watch sends: the tables, the keys, and a condition on the row before or after each event.

use std::collections::BTreeSet;
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::key_columns::{CompositeKey, KeyPart};
use driftdb_common::format::value::Value;
use driftdb_common::limits;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::query::ast::{Column, Comparison, Condition};
use driftdb_common::query::in_list::InList;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::history::{DriftEvent, Images, KeyFilter};
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;

use crate::replica::Applied;
use crate::resume_token::request_hash;
use crate::subscriptions::interest::{Interest, InterestingRows};

/// The filter of a watch. An event must meet all parts.
///
/// A watch that names tables sends the events of each table that has one of the names when the watch is opened, or at some time from
/// the watch's start up to the event. So it goes on with a table that is renamed, and with a new table that gets one of the names.
#[derive(Debug, Clone)]
pub struct WatchFilter {
    /// Who watches: what this caller may not read is not there.
    caller: Caller,
    /// The tables by name; empty for all tables.
    tables: BTreeSet<String>,
    /// The commits over which a name means a table: from the first one on, and at least up to the second.
    named: NamedRange,
    /// The keys.
    pub rows: Arc<KeyFilter>,
    condition: Option<Condition>,
    /// Only commits after this time pass, in milliseconds since 1970; 0 if the watch does not start at a time.
    after_ms: u64,
    hash: u64,
}

/// The commits whose names of tables a watch uses, whatever it has sent: a resume token keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamedRange {
    /// The commit after which the watch began.
    pub from: u64,
    /// The newest commit when it was asked for.
    pub to: u64,
}

impl WatchFilter {
    /// The filter of a request.
    pub fn from_wire(request: &v1::WatchDriftRequest, caller: &Caller) -> Result<WatchFilter> {
        if request.keys.len() > limits::KEYS_PER_WATCH {
            let message = format!(
                "too many keys: {}, the limit for a watch is {}; use a condition, or several watches",
                request.keys.len(),
                limits::KEYS_PER_WATCH
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        let longest = request.keys.iter().chain([&request.key_prefix]).map(String::len).max().unwrap_or(0);
        let most = match request.keys.iter().chain([&request.key_prefix]).any(|key| key.starts_with('[')) {
            true => limits::KEY_TEXT_BYTES,
            false => limits::KEY_BYTES,
        };
        if longest > most {
            let message = format!("the key is too long: {longest} bytes, the limit is {most}");
            return Err(Error::new(Reason::KeyInvalid, message));
        }
        let params = parser::parse_params(&request.params)?;
        // A name of no zone is an error also without a condition.
        let clock = LocalClock::in_zone(&request.time_zone, now_ms())?;
        let condition = match request.r#where.trim() {
            "" => None,
            text => Some(parser::parse_condition_at(text, &params, &clock)?.value),
        };
        let tables: BTreeSet<String> = request.tables.iter().cloned().collect();
        let keys: BTreeSet<String> = request.keys.iter().cloned().collect();
        // The hash uses the sorted names: their order in the request does not matter.
        let counts =
            [tables.len(), keys.len(), request.params.len()].map(|count| (count as u64).to_le_bytes());
        let texts = tables.iter().chain(&keys).chain(&request.params).map(String::as_str);
        let texts = texts.chain([request.key_prefix.as_str(), request.r#where.trim()]);
        // Only if it is given, so that tokens of earlier versions stay valid.
        let zone = Some(request.time_zone.as_str()).filter(|zone| !zone.is_empty());
        let texts = texts.chain(zone).map(str::as_bytes);
        let hash = request_hash(counts.iter().map(<[u8; 8]>::as_slice).chain(texts));
        // A composite key is compared as the text that its row has. A text key may look like one.
        let spelled: Vec<String> = keys.iter().filter_map(|key| CompositeKey::canonical_text(key)).collect();
        let keys = keys.into_iter().chain(spelled).collect();
        let rows = Arc::new(KeyFilter { keys, prefix: request.key_prefix.clone() });
        let (caller, named) = (caller.clone(), NamedRange::default());
        Ok(WatchFilter { caller, tables, named, rows, condition, after_ms: 0, hash })
    }

    /// The same filter for commits after a time only. The watch may start at an earlier commit: the time may be in the
    /// future, or this replica may not have seen the last commit before it.
    #[must_use]
    pub fn after_time(self, after_ms: u64) -> WatchFilter {
        WatchFilter { after_ms, ..self }
    }

    /// The same filter of a watch whose names of tables are those of some commits.
    #[must_use]
    pub fn named_in(self, named: NamedRange) -> WatchFilter {
        WatchFilter { named, ..self }
    }

    /// The commits whose names of tables count, for resume tokens; `None` if the watch names no tables.
    pub fn token_names(&self) -> Option<(u64, u64)> {
        let NamedRange { from, to } = self.named;
        (!self.tables.is_empty()).then_some((from, to))
    }

    /// The time after which commits pass, in milliseconds since 1970; 0 if all do.
    pub fn after_ms(&self) -> u64 {
        self.after_ms
    }

    /// Whether a commit of this time can pass. All commits of the first second of 1970 do: there are none.
    pub fn passes_time(&self, time_ms: u64) -> bool {
        self.after_ms == 0 || time_ms > self.after_ms
    }

    /// The hash of the filter, which a resume token contains.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The changes that may pass.
    pub fn interest(&self) -> Interest {
        let values = self.condition.as_ref().and_then(InterestingRows::values_of);
        let rows = match values {
            _ if !self.rows.keys.is_empty() => {
                InterestingRows::Keys(self.rows.keys.iter().cloned().collect())
            }
            Some(values) => InterestingRows::Values(values),
            None if !self.rows.prefix.is_empty() => InterestingRows::Prefix(self.rows.prefix.clone()),
            None => InterestingRows::All,
        };
        Interest { tables: self.tables.iter().cloned().collect(), rows }
    }

    /// Fails if no table has a name that is given, or has had it since the watch's start, and none was dropped under it; or if the table
    /// cannot have one of the keys.
    pub fn check(&self, applied: &Applied) -> Result<()> {
        for table in &self.tables {
            let named = self.named.from..=applied.seq;
            let tables = applied.names.of_name(table).iter().filter(|_| self.caller.may_see(table));
            let had = tables.rev().find(|of_name| of_name.had_name(named.clone(), |name| name == table));
            let found = had.map_or_else(|| applied.table_at(table, applied.seq, &self.caller), Ok)?;
            let key_type = found.key_type()?;
            for key in &self.rows.keys {
                work::step(8)?;
                Key::parse(key, key_type)?;
            }
        }
        Ok(())
    }

    /// The existing tables of which the watch covers some events, in the order of their creation.
    pub fn timelines<'a>(&self, applied: &'a Applied) -> Vec<&'a Arc<Timeline>> {
        let mut tables: Vec<_> =
            applied.tables.values().filter(|table| self.covers_some(table, applied.seq)).collect();
        tables.sort_unstable_by_key(|table| table.id());
        tables
    }

    /// The greatest floor of the tables that the watch covers.
    pub fn floor(&self, applied: &Applied) -> u64 {
        let tables = applied.tables.values().filter(|table| self.covers_some(table, applied.seq));
        tables.filter_map(|table| table.state().layers.floor()).map(|floor| floor.seq).max().unwrap_or(0)
    }

    /// Who watches.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the watch covers a table, for events of a commit. Whoever may read the name that the table has then, may see them.
    pub fn covers(&self, table: &Timeline, seq: u64) -> bool {
        self.names(table, seq) && (self.sees_all() || self.caller.may_see(&table.name_at(seq)))
    }

    /// Whether the watch covers a table for events of some commit up to `seq`: whoever watches may be allowed a name that the table had
    /// then, and has given up since.
    fn covers_some(&self, table: &Timeline, seq: u64) -> bool {
        let sees_one = || table.names().iter().any(|name| self.caller.may_see(name));
        self.names(table, seq) && (self.sees_all() || sees_one())
    }

    fn sees_all(&self) -> bool {
        self.caller.is_admin() || is_planted(PlantedBug::WatchUnfiltered)
    }

    /// Whether the table has one of the names that the watch gives, or it gives none.
    fn names(&self, table: &Timeline, seq: u64) -> bool {
        let NamedRange { from, to } = self.named;
        self.tables.is_empty() || table.had_name(from..=seq.max(to), |name| self.tables.contains(name))
    }

    /// Whether the filter has a condition, which may take long to check.
    pub fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Whether an event may pass, judged by its key alone; `None` is the key of a SCHEMA event.
    pub fn may_pass(&self, key: Option<&Key>) -> bool {
        match key {
            Some(key) => self.rows.passes(key),
            None => self.rows.passes_all() && self.condition.is_none(),
        }
    }

    /// Whether an event passes. The event must have the images that [`WatchFilter::needed_images`] names.
    pub fn passes(&self, event: &DriftEvent) -> Result<bool> {
        if !self.may_pass(event.key.as_ref()) {
            return Ok(false);
        }
        self.condition.as_ref().map_or(Ok(true), |condition| condition.matches_event(event))
    }

    /// The images that the filter needs to judge an event, and those that the watch sends.
    pub fn needed_images(&self, sent: Images) -> Images {
        let has_condition = self.has_condition();
        Images { before: sent.before || has_condition, after: sent.after || has_condition }
    }

    /// The condition for a SELECT of the rows of a table that pass. The outer `None` means that no row passes, the inner `None`
    /// that all rows pass.
    pub fn select_condition(&self, key_type: KeyType) -> Option<Option<Condition>> {
        let value = |key: Key| match key {
            Key::Int(int) => Value::Int(int.into()),
            Key::Str(text) => Value::Str(text.to_string()),
            Key::Composite(key) => Value::Array(
                key.parts()
                    .iter()
                    .map(|part| match part {
                        KeyPart::Int(int) => Value::Int((*int).into()),
                        KeyPart::Str(text) => Value::Str(text.to_string()),
                    })
                    .collect(),
            ),
        };
        let mut parts: Vec<Condition> = self.condition.iter().cloned().collect();
        if !self.rows.keys.is_empty() {
            let keys = self.rows.keys.iter().filter_map(|key| Key::parse(key, key_type).ok());
            let values: Vec<Value> = keys.map(value).collect();
            if values.is_empty() {
                return None;
            }
            parts.push(Condition::In { column: Column::Key, values: InList::new(values), negated: false });
        }
        if !self.rows.prefix.is_empty() && key_type == KeyType::String {
            let text = Value::Str(self.rows.prefix.clone());
            parts.push(Condition::Compare {
                column: Column::Key,
                op: Comparison::GreaterOrEqual,
                value: text,
            });
            if let Some(end) = prefix_end(&self.rows.prefix) {
                let value = Value::Str(end);
                parts.push(Condition::Compare { column: Column::Key, op: Comparison::Less, value });
            }
        }
        Some(if parts.len() > 1 { Some(Condition::And(parts)) } else { parts.pop() })
    }
}

/// A text that sorts after all texts with a prefix, and close to them.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    let last = text.pop()?;
    // `None` for the last code point, and for the rare one before the surrogates: the range then has no upper end.
    text.push(char::from_u32(u32::from(last) + 1)?);
    Some(text)
}
