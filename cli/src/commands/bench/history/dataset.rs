//! The history that `bench` loads: ten versions of each order in a shuffled, repeatable order, and the expected results.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use v1::document::Body;
use v1::operation::Action;

use crate::orders::{SampleOrder, SplitMix64, id, order};

/// The number of versions of each order, before the tail.
const VERSIONS: u32 = 10;
/// The number of orders of each customer. A quarter of them, in each of four statuses, is the result of an indexed select.
const ORDERS_OF_A_CUSTOMER: u32 = 400;
/// The status that the indexed selects ask for.
pub(crate) const STATUS: &str = "paid";
/// The maximum number of events after the last snapshot.
const TAIL: u32 = 50_000;

/// The words of the notes.
const WORDS: [&str; 32] = [
    "leave",
    "it",
    "at",
    "the",
    "door",
    "ring",
    "twice",
    "and",
    "mind",
    "cat",
    "which",
    "belongs",
    "to",
    "neighbours",
    "likes",
    "parcels",
    "gate",
    "code",
    "1947",
    "after",
    "noon",
    "fragile",
    "glass",
    "upstairs",
    "garage",
    "blue",
    "bell",
    "broken",
    "call",
    "first",
    "stairs",
    "left",
];
/// Makes a note about 100 characters long.
const WORDS_IN_A_NOTE: usize = 18;

/// The order that each event changes.
#[derive(Debug)]
pub(crate) struct EventScript {
    table: String,
    orders: Vec<u32>,
    /// The number of orders.
    count: u32,
    customers: u32,
}

/// The events of each order, to compute expected results.
#[derive(Debug)]
pub(crate) struct Dataset {
    /// The table.
    pub(crate) table: String,
    /// The seq of the first event. Each event is one commit, and nothing else is written.
    pub(crate) first_seq: u64,
    customers: u32,
    /// For each order the index in `events` of its first event, and one more entry for the end.
    starts: Vec<u32>,
    /// The events, sorted by order and then by time.
    events: Vec<u32>,
}

/// A script of this many events, without a tail.
pub(crate) fn script(table: &str, events: u32) -> EventScript {
    let count = (events / VERSIONS).max(1);
    let mut orders: Vec<u32> = (0..count * VERSIONS).map(|event| event % count).collect();
    let mut random = SplitMix64::new(u64::from(events));
    for last in (1..orders.len()).rev() {
        let other = random.below(last as u64 + 1);
        orders.swap(last, usize::try_from(other).unwrap_or_default());
    }
    EventScript { table: table.to_owned(), orders, count, customers: count.div_ceil(ORDERS_OF_A_CUSTOMER) }
}

impl EventScript {
    /// Adds a tail that changes random orders. Returns its length.
    pub(crate) fn add_tail(&mut self, seed: u64) -> u32 {
        let mut random = SplitMix64::new(seed);
        let tail = TAIL.min(self.count * VERSIONS / 2);
        let count = u64::from(self.count);
        self.orders.extend((0..tail).map(|_| u32::try_from(random.below(count)).unwrap_or_default()));
        tail
    }

    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }

    /// The operations of a range of events, in batches of `size`.
    pub(crate) fn batches(
        &self,
        range: std::ops::Range<usize>,
        size: usize,
    ) -> impl Iterator<Item = Result<Vec<v1::Operation>>> {
        let mut versions = vec![0; self.count as usize];
        for order in self.orders.iter().take(range.start) {
            next_version(&mut versions, *order);
        }
        let events = self.orders.get(range).unwrap_or_default();
        events.chunks(size).map(move |chunk| {
            chunk
                .iter()
                .map(|order| {
                    operation(&self.table, (*order, next_version(&mut versions, *order)), self.customers)
                })
                .collect()
        })
    }

    /// The expected results, if `first_seq` is the seq of the first event.
    pub(crate) fn dataset(&self, first_seq: u64) -> Dataset {
        let mut starts = vec![0u32; self.count as usize + 1];
        for order in &self.orders {
            if let Some(count) = starts.get_mut(*order as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut events = vec![0; self.orders.len()];
        for (event, order) in (0..).zip(&self.orders) {
            if let Some(at) = next.get_mut(*order as usize) {
                if let Some(place) = events.get_mut(*at as usize) {
                    *place = event;
                }
                *at += 1;
            }
        }
        Dataset { table: self.table.clone(), first_seq, customers: self.customers, starts, events }
    }
}

fn next_version(versions: &mut [u32], order: u32) -> u32 {
    let Some(version) = versions.get_mut(order as usize) else { return 0 };
    *version += 1;
    *version - 1
}

/// A version of an order.
fn version_of(number: u32, version: u32, customers: u32) -> SampleOrder {
    SampleOrder { customer: customer(number % customers.max(1)), ..order(number.into(), version.into()) }
}

fn customer(number: u32) -> String {
    format!("CUST-{number:04}")
}

/// The operation of a version: first the whole document, later mostly patches.
fn operation(table: &str, (number, version): (u32, u32), customers: u32) -> Result<v1::Operation> {
    let order = version_of(number, version, customers);
    let patches = version > 0 && version % 5 != 4;
    let text = match patches {
        true => {
            let SampleOrder { status, cents, .. } = &order;
            format!(r#"{{"status":"{status}","amount":{}.{:02}}}"#, cents / 100, cents % 100)
        }
        false => whole(&order, number),
    };
    let body = Some(Body::Msgpack(Document::from_json(&text)?.msgpack().clone()));
    let document = v1::Document { body };
    let (key, action) = match (version, patches) {
        (0, _) => (String::new(), Action::Insert(document)),
        (_, false) => (String::new(), Action::Put(document)),
        (_, true) => (order.id, Action::Patch(document)),
    };
    Ok(v1::Operation { table: table.to_owned(), key, action: Some(action) })
}

/// The document of an order, about 200 bytes. Every order has a different note, so that compression is realistic.
fn whole(order: &SampleOrder, number: u32) -> String {
    let SampleOrder { id, customer, status, cents } = order;
    let mut random = SplitMix64::new(u64::from(number) << 32);
    let mut note = String::with_capacity(WORDS_IN_A_NOTE * 7);
    for _ in 0..WORDS_IN_A_NOTE {
        let word = WORDS.get(usize::try_from(random.below(WORDS.len() as u64)).unwrap_or_default());
        note.push_str(word.unwrap_or(&""));
        note.push(' ');
    }
    let (whole, part) = (cents / 100, cents % 100);
    format!(
        r#"{{"id":"{id}","customer_id":"{customer}","status":"{status}","amount":{whole}.{part:02},"note":"{}"}}"#,
        note.trim_end()
    )
}

impl Dataset {
    /// The number of orders.
    pub(crate) fn orders(&self) -> u32 {
        u32::try_from(self.starts.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The seq of the last commit.
    pub(crate) fn last_seq(&self) -> u64 {
        self.first_seq + (self.events.len() as u64).saturating_sub(1)
    }

    /// The seqs of the commits that changed an order.
    pub(crate) fn seqs(&self, order: u32) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        let at = |index: u32| self.starts.get(index as usize).map_or(0, |start| *start as usize);
        let events = self.events.get(at(order)..at(order.saturating_add(1))).unwrap_or_default();
        events.iter().map(|event| self.first_seq + u64::from(*event))
    }

    /// The seq of the commit that wrote the version of an order at `moment`.
    pub(crate) fn written(&self, order: u32, moment: u64) -> Option<u64> {
        self.seqs(order).rev().find(|seq| *seq <= moment)
    }

    /// A random order, and its key.
    pub(crate) fn any_order(&self, random: &mut SplitMix64) -> (u32, String) {
        let number = u32::try_from(random.below(self.orders().into())).unwrap_or_default();
        (number, id(number.into()))
    }

    /// A random seq at which an order exists.
    pub(crate) fn any_moment_of(&self, order: u32, random: &mut SplitMix64) -> u64 {
        let first = self.seqs(order).next().unwrap_or(self.first_seq);
        first + random.below(self.last_seq() - first + 1)
    }

    /// A random customer's name, and the number of its orders with [`STATUS`] at `moment`.
    pub(crate) fn any_customer(&self, moment: u64, random: &mut SplitMix64) -> (String, u64) {
        let number = u32::try_from(random.below(self.customers.into())).unwrap_or_default();
        let own = (number..self.orders()).step_by(self.customers.max(1) as usize);
        let found = own.filter(|order| self.at(*order, moment).is_some_and(|row| row.status == STATUS));
        (customer(number), found.count() as u64)
    }

    /// An order at `moment`, if it exists.
    fn at(&self, number: u32, moment: u64) -> Option<SampleOrder> {
        let versions = self.seqs(number).take_while(|seq| *seq <= moment).count();
        let newest = u32::try_from(versions).ok()?.checked_sub(1)?;
        Some(version_of(number, newest, self.customers))
    }

    /// The number of orders with an amount over 500 at `moment`.
    pub(crate) fn large_orders(&self, moment: u64) -> u64 {
        let is_large = |number: &u32| self.at(*number, moment).is_some_and(|row| row.cents > 50_000);
        (0..self.orders()).filter(is_large).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_its_versions_in_a_repeatable_order() {
        let mut long = script("t", 2000);
        assert_eq!(long.len(), 2000);
        assert_eq!(long.orders, script("t", 2000).orders);
        assert_ne!(long.orders, script("t", 2010).orders);
        let dataset = long.dataset(7);
        assert_eq!((dataset.orders(), dataset.last_seq()), (200, 2006));
        for order in 0..200 {
            let seqs: Vec<u64> = dataset.seqs(order).collect();
            assert_eq!(seqs.len(), 10);
            assert!(seqs.is_sorted());
            assert!(seqs.iter().all(|seq| long.orders[usize::try_from(seq - 7).unwrap()] == order));
            assert_eq!(dataset.written(order, seqs[4]), Some(seqs[4]));
            assert_eq!(dataset.written(order, seqs[4] - 1), Some(seqs[3]));
            assert_eq!(dataset.written(order, seqs[0] - 1), None);
        }
        assert_eq!(long.add_tail(1), 1000);
        assert_eq!(long.dataset(7).last_seq(), 3006);
        assert_eq!(long.dataset(7).orders(), 200);
    }

    #[test]
    fn a_document_is_about_200_bytes_long() {
        for number in 0..100 {
            let text = whole(&version_of(number, 3, 10), number);
            assert!((165..=235).contains(&text.len()), "{} {text}", text.len());
            let _: serde_json::Value = serde_json::from_str(&text).unwrap();
        }
    }

    #[test]
    fn a_select_finds_about_a_hundred_orders() {
        let dataset = script("t", 40_000).dataset(1);
        let mut random = SplitMix64::new(1);
        for _ in 0..20 {
            let (name, rows) = dataset.any_customer(dataset.last_seq(), &mut random);
            assert!(name.len() == 9 && (60..140).contains(&rows), "{name} {rows}");
        }
        assert_eq!(dataset.any_customer(0, &mut random).1, 0);
    }

    #[test]
    fn each_version_becomes_one_operation() {
        let script = script("t", 1000);
        let all: Vec<_> = script.batches(0..1000, 30).flat_map(Result::unwrap).collect();
        assert_eq!(all.len(), 1000);
        let kinds =
            |want: fn(&Action) -> bool| all.iter().filter(|one| want(one.action.as_ref().unwrap())).count();
        assert_eq!(kinds(|action| matches!(action, Action::Insert(_))), 100);
        assert_eq!(kinds(|action| matches!(action, Action::Put(_))), 200);
        assert_eq!(kinds(|action| matches!(action, Action::Patch(_))), 700);
        let later: Vec<_> = script.batches(400..1000, 30).flat_map(Result::unwrap).collect();
        assert_eq!(later, all[400..]);
    }
}
