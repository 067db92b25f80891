//! The moments of AS OF EVERY, as times or as commits.

use std::time::Duration;

use jiff::Span;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::query::ast::MomentStep;
use crate::query::local_clock::LocalClock;
use crate::work;

/// The moments from a time on, up to and including another, in milliseconds since 1970. Steps of the calendar are counted from the
/// first moment, so that a month from the 31st does not shorten those after it.
///
/// # Errors
/// `TOO_LARGE` if there are more than a query may have.
pub fn times(step: MomentStep, from_ms: u64, to_ms: u64, clock: &LocalClock) -> Result<Vec<u64>> {
    let first = clock.local(i64::try_from(from_ms).unwrap_or(i64::MAX));
    let after = |number: u64| -> Option<u64> {
        let span = match step {
            MomentStep::Fixed(step) => return fixed(from_ms, step, number),
            MomentStep::Seqs(_) => return None,
            MomentStep::Days(days) => Span::new().try_days(signed(days, number)?),
            MomentStep::Months(months) => Span::new().try_months(signed(months, number)?),
        };
        let local = first.checked_add(span.ok()?).ok()?;
        u64::try_from(clock.nearest_ms(local)?).ok()
    };
    let mut moments: Vec<u64> = Vec::new();
    let (mut number, mut next) = (0, Some(from_ms));
    while let Some(moment) = next.filter(|moment| *moment <= to_ms) {
        work::step(4)?;
        // Two steps lead to one moment if the zone has skipped a day.
        if moments.last().is_none_or(|last| moment > *last) {
            has_room(moments.len())?;
            moments.push(moment);
        }
        number += 1;
        next = after(number);
    }
    Ok(moments)
}

/// The commits from one on, up to and including another.
///
/// # Errors
/// `TOO_LARGE` if there are more than a query may have.
pub fn seqs(step: u64, from: u64, to: u64) -> Result<Vec<u64>> {
    let mut moments = Vec::new();
    let mut next = Some(from).filter(|from| *from <= to);
    while let Some(seq) = next {
        has_room(moments.len())?;
        moments.push(seq);
        next = seq.checked_add(step).filter(|next| *next <= to && *next > seq);
    }
    Ok(moments)
}

fn fixed(from_ms: u64, step: Duration, number: u64) -> Option<u64> {
    let millis = u64::try_from(step.as_millis()).ok().filter(|millis| *millis > 0)?;
    from_ms.checked_add(millis.checked_mul(number)?)
}

fn signed(step: u64, number: u64) -> Option<i64> {
    i64::try_from(step.checked_mul(number)?).ok()
}

fn has_room(moments: usize) -> Result<()> {
    if moments < limits::MOMENTS_PER_QUERY {
        return Ok(());
    }
    let message = format!(
        "AS OF EVERY has more than {} moments, the limit: use a longer step, or a later FROM",
        limits::MOMENTS_PER_QUERY
    );
    Err(Error::new(Reason::TooLarge, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::rfc3339;

    fn list(step: MomentStep, from: &str, to: &str, zone: &str) -> Vec<String> {
        let ms = |text: &str| u64::try_from(rfc3339::parse(text).unwrap().millis()).unwrap();
        let clock = LocalClock::in_zone(zone, 0).unwrap();
        let times = times(step, ms(from), ms(to), &clock).unwrap();
        times.into_iter().map(|ms| rfc3339::format_millis(i64::try_from(ms).unwrap())).collect()
    }

    #[test]
    fn steps_of_the_calendar_are_counted_from_the_first_moment_in_the_zone() {
        let found = list(MomentStep::Months(1), "2025-01-31T12:00:00Z", "2025-04-30T12:00:00Z", "");
        let expected = ["2025-01-31", "2025-02-28", "2025-03-31", "2025-04-30"];
        assert_eq!(found, expected.map(|date| format!("{date}T12:00:00.000Z")));
        // Midnight in Berlin, over the night in which the clocks are set forward.
        let found =
            list(MomentStep::Days(1), "2025-03-28T23:00:00Z", "2025-03-31T00:00:00Z", "Europe/Berlin");
        let expected = ["2025-03-28T23:00:00.000Z", "2025-03-29T23:00:00.000Z", "2025-03-30T22:00:00.000Z"];
        assert_eq!(found, expected);
        // Samoa had no 30 December in 2011: the days go on after it.
        let found = list(MomentStep::Days(1), "2011-12-29T10:00:00Z", "2011-12-31T12:00:00Z", "Pacific/Apia");
        assert_eq!(
            found,
            ["2011-12-29", "2011-12-30", "2011-12-31"].map(|day| format!("{day}T10:00:00.000Z"))
        );
        let hours = MomentStep::Fixed(Duration::from_secs(7200));
        let found = list(hours, "2025-01-01T00:00:00Z", "2025-01-01T05:00:00Z", "");
        assert_eq!(found, ["00", "02", "04"].map(|hour| format!("2025-01-01T{hour}:00:00.000Z")));
        assert!(list(hours, "2025-01-02T00:00:00Z", "2025-01-01T00:00:00Z", "").is_empty());
        assert_eq!(seqs(3, 1, 9).unwrap(), [1, 4, 7]);
        assert_eq!(seqs(u64::MAX, 1, 9).unwrap(), [1]);
    }

    #[test]
    fn the_number_of_moments_is_bounded() {
        assert_eq!(seqs(1, 1, limits::MOMENTS_PER_QUERY as u64).unwrap().len(), limits::MOMENTS_PER_QUERY);
        let error = seqs(1, 0, limits::MOMENTS_PER_QUERY as u64).unwrap_err();
        assert_eq!(error.reason(), Reason::TooLarge);
        let clock = LocalClock::utc(0);
        let second = MomentStep::Fixed(Duration::from_secs(1));
        assert_eq!(times(second, 0, u64::MAX, &clock).unwrap_err().reason(), Reason::TooLarge);
    }
}
