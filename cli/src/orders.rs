//! Generated orders for `demo` and `bench`: the same orders on every run.

/// A pseudo-random sequence (SplitMix64). It is repeatable, and random enough to spread keys and amounts.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// A sequence that starts with this seed.
    pub(crate) fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`. The bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// The statuses of an order.
const STATUSES: [&str; 4] = ["pending", "paid", "shipped", "delivered"];

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SampleOrder {
    /// The primary key, such as `ORD-000001`.
    pub(crate) id: String,
    /// The customer, such as `CUST-0042`.
    pub(crate) customer: String,
    /// One of [`STATUSES`].
    pub(crate) status: &'static str,
    /// The amount, in cents.
    pub(crate) cents: u64,
}

/// Version `version` of order `number`. Versions have the same customer, and different statuses and amounts.
pub(crate) fn order(number: u64, version: u64) -> SampleOrder {
    let mut random = SplitMix64::new(number);
    let customer = format!("CUST-{:04}", random.below(1000));
    let mut random = SplitMix64::new(number.wrapping_mul(1_000_003).wrapping_add(version));
    let pick = random.below(STATUSES.len() as u64);
    let status = STATUSES.iter().zip(0..).find(|(_, i)| *i == pick).map_or("pending", |(status, _)| *status);
    SampleOrder { id: id(number), customer, status, cents: random.below(100_000) }
}

/// The key of order `number`.
pub(crate) fn id(number: u64) -> String {
    format!("ORD-{number:06}")
}

impl SampleOrder {
    /// The JSON document, about 200 bytes long.
    pub(crate) fn json(&self) -> String {
        let SampleOrder { id, customer, status, cents } = self;
        let (whole, part) = (cents / 100, cents % 100);
        let note = "Leave it at the door; ring twice, and mind the cat, which belongs to the neighbours and likes parcels.";
        format!(
            r#"{{"id":"{id}","customer_id":"{customer}","status":"{status}","amount":{whole}.{part:02},"note":"{note}"}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_repeatable_and_about_200_bytes_long() {
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_eq!(order(1, 0).customer, order(1, 1).customer);
        for number in 0..100 {
            let text = order(number, 3).json();
            assert!((185..=215).contains(&text.len()), "{} {text}", text.len());
            let _: serde_json::Value = serde_json::from_str(&text).unwrap();
        }
    }

    #[test]
    fn the_sequence_covers_all_remainders() {
        let mut random = SplitMix64::new(7);
        let found: std::collections::BTreeSet<u64> = (0..1000).map(|_| random.below(10)).collect();
        assert_eq!(found.len(), 10);
    }
}
