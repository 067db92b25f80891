//! What requests to an object store cost.

/// The seconds of a month of 30 days.
const MONTH_SECS: f64 = 30.0 * 86_400.0;

/// The number of requests in a month, and their price in USD if 1,000 cost `price`.
pub(crate) fn in_a_month(per_second: f64, price: f64) -> (f64, f64) {
    let requests = per_second * MONTH_SECS;
    (requests, requests / 1000.0 * price)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_a_second_is_counted_for_a_month() {
        let (requests, usd) = in_a_month(1.0, 0.005);
        assert_eq!(requests, 2_592_000.0);
        assert!((usd - 12.96).abs() < 1e-9);
    }
}
