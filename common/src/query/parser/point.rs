//! Parses points in time (`@seq:100`, `@now`, a time, a date, `5 minutes ago`, `yesterday`) and durations.

use crate::error::{Error, Result};
use crate::format::rfc3339::{self, UtcTime};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::PointInTime;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::local_clock::LocalClock;
use crate::query::location;
use crate::query::parser::moment::{self, Length, MomentError};
use crate::query::parser::state::Parser;

const NANOS_PER_MILLI: i128 = 1_000_000;
/// The hint for a text that is not a point in time.
const FORMS: &str = "write \"@seq:100\", \"@now\", \"2025-01-01T00:00:00Z\", \"2025-01-01\", \"5 minutes ago\", \"yesterday 17:30\" or \"last monday\"";
/// The hint for a text that is not a time.
const TIMES: &str = "write \"2025-01-01T00:00:00Z\", \"2025-01-01\", \"5 minutes ago\" or \"yesterday\"";

/// A point in time, and how words of the calendar were understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedPoint {
    /// The point.
    pub point: PointInTime,
    /// For people: which time the words mean, in which time zone. `None` if the text has no such words.
    pub note: Option<String>,
}

impl From<PointInTime> for ParsedPoint {
    fn from(point: PointInTime) -> ParsedPoint {
        ParsedPoint { point, note: None }
    }
}

/// Parses a point in time without quotes, such as the argument of `--as-of`.
pub fn parse_point(text: &str, clock: &LocalClock) -> Result<ParsedPoint> {
    point(text.trim(), clock)
        .map_err(|problem| location::invalid_at(text, 0, text.len(), problem.message, problem.hint))
}

impl Parser<'_> {
    /// Parses a point in time: in quotes, or `@…` without.
    pub(super) fn point(&mut self) -> Result<PointInTime> {
        let token = self.token;
        let text = match token.kind {
            TokenKind::At => {
                let text = self.slice(token).to_owned();
                self.advance()?;
                text
            }
            TokenKind::Str | TokenKind::Param => match self.value()? {
                Value::Str(text) => text,
                other => {
                    let message = format!("a point in time is a string, not {}", other.kind());
                    return Err(self.invalid(token, message, FORMS));
                }
            },
            TokenKind::Number => return Err(self.expected("a point in time", &[], &self.number_hint(token))),
            _ => return Err(self.expected("a point in time", &[], FORMS)),
        };
        let found = point(text.trim(), self.clock).map_err(|problem| self.problem(token, problem))?;
        self.notes.extend(found.note);
        Ok(found.point)
    }

    /// Parses how long history is kept, such as `"90d"`, to milliseconds.
    pub(super) fn retention(&mut self) -> Result<u64> {
        const FORMS: &str = "for example RETAIN \"90d\"; the units are s, m, h, d and w";
        let token = self.token;
        if !matches!(token.kind, TokenKind::Str | TokenKind::Param) {
            // ALTER TABLE has FOREVER and parsed it already; CREATE TABLE does not have it.
            let (words, hint): (&[&str], _) = match self.at_keyword("FOREVER") {
                true => (&[], "remove RETAIN: history is kept forever by default"),
                false => (&["FOREVER"], FORMS),
            };
            return Err(self.expected("a duration in quotes", words, hint));
        }
        let Value::Str(text) = self.value()? else {
            return Err(self.invalid(token, "a duration is a string", FORMS));
        };
        let kept = moment::duration(text.trim())
            .map_err(|problem| self.problem(token, MomentError { hint: FORMS.to_owned(), ..problem }))?;
        let millis = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        if millis < limits::RETAIN_LEAST_SECS * 1000 {
            return Err(self.invalid(token, "RETAIN must be at least 1 second", FORMS));
        }
        Ok(millis)
    }

    fn number_hint(&self, token: Token) -> String {
        let text = self.slice(token);
        match text.parse::<u64>() {
            Ok(seq) => format!("write @seq:{seq}, or a time in quotes"),
            Err(_) => FORMS.to_owned(),
        }
    }

    fn problem(&self, token: Token, problem: MomentError) -> Error {
        self.invalid(token, problem.message, problem.hint)
    }

    /// Converts the operand of a time, such as `_time`, to milliseconds, as `Condition` documents it.
    pub(super) fn time_operand(&mut self, token: Token, column: &str, value: &Value) -> Result<Value> {
        let Value::Str(text) = value else {
            let message = format!("{column} is a time and cannot be compared with {}", value.kind());
            return Err(self.invalid(token, message, TIMES));
        };
        let found = operand_nanos(text.trim(), self.clock);
        let (nanos, note) = found.map_err(|problem| match problem.hint.as_str() {
            FORMS => self.invalid(token, format!("{:?} is not a time", clipped(text)), TIMES),
            _ => self.problem(token, problem),
        })?;
        self.notes.extend(note);
        let millis = nanos.div_euclid(NANOS_PER_MILLI);
        if nanos.rem_euclid(NANOS_PER_MILLI) == 0 {
            return Ok(Value::Int(millis));
        }
        // Times have at most 15 digits in milliseconds, so adding 0.5 is exact.
        #[expect(clippy::cast_precision_loss, reason = "under 2^53")]
        Ok(Value::Float(millis as f64 + 0.5))
    }
}

/// The time that an operand of `_time` names, in nanoseconds since 1970, and the note about its words.
fn operand_nanos(text: &str, clock: &LocalClock) -> Result<(i128, Option<String>), MomentError> {
    if rfc3339::begins_with_date(text) {
        // A point in time is whole milliseconds; an operand need not be.
        return time(text, clock).map(|nanos| (nanos, None));
    }
    let ParsedPoint { point, note } = point(text, clock)?;
    let now_ms = i128::from(clock.now_ms());
    let millis = match point {
        PointInTime::Seq(_) => {
            return Err(MomentError::new(
                format!("{:?} is not a time", clipped(text)),
                "compare _seq with a number",
            ));
        }
        PointInTime::Now => now_ms,
        PointInTime::Time(millis) => millis.into(),
        PointInTime::Ago(ago) => now_ms - i128::try_from(ago.as_millis()).unwrap_or(now_ms),
    };
    Ok((millis.saturating_mul(NANOS_PER_MILLI), note))
}

fn point(text: &str, clock: &LocalClock) -> Result<ParsedPoint, MomentError> {
    if let Some(name) = text.strip_prefix('@') {
        return named(name, text).map(ParsedPoint::from);
    }
    if text.eq_ignore_ascii_case("now") {
        return Ok(PointInTime::Now.into());
    }
    let ago = text.len().checked_sub(3).and_then(|at| text.split_at_checked(at));
    if let Some((length, word)) = ago
        && word.eq_ignore_ascii_case("ago")
    {
        return match moment::length(length.trim_end())? {
            Length::Fixed(duration) => Ok(PointInTime::Ago(duration).into()),
            Length::Days(days) => Ok(PointInTime::Ago(moment::of_days(days)).into()),
            Length::Months(months) => match moment::months_ago(months, clock) {
                Some(millis) => Ok(in_words(text, millis, clock)),
                None => Err(MomentError::new(format!("{:?} is out of range", clipped(text)), FORMS)),
            },
        };
    }
    if let Some(millis) = moment::day_in_words(text, clock) {
        return Ok(in_words(text, millis?, clock));
    }
    let millis = time(text, clock)?.div_euclid(NANOS_PER_MILLI);
    i64::try_from(millis).map(|millis| PointInTime::Time(millis).into()).map_err(|_| unknown(text))
}

/// The point in time that words of the calendar mean.
fn in_words(text: &str, millis: i64, clock: &LocalClock) -> ParsedPoint {
    let time = rfc3339::format_millis(millis);
    let note = format!("{:?} means {time}, in the time zone {}", clipped(text), clock.zone_name());
    ParsedPoint { point: PointInTime::Time(millis), note: Some(note) }
}

fn named(name: &str, text: &str) -> Result<PointInTime, MomentError> {
    if name.eq_ignore_ascii_case("now") {
        return Ok(PointInTime::Now);
    }
    let number = match name.split_at_checked(4) {
        Some((prefix, number)) if prefix.eq_ignore_ascii_case("seq:") => number,
        _ => {
            return Err(MomentError::new(
                format!("unknown point in time {:?}", clipped(text)),
                "write @seq:100 or @now",
            ));
        }
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match number.parse() {
        Ok(seq) if digits => Ok(PointInTime::Seq(seq)),
        _ => {
            let message = format!("{:?} is not a sequence number", clipped(number));
            Err(MomentError::new(message, "write a whole number, for example @seq:100"))
        }
    }
}

/// Converts a time, or a date (its midnight), to nanoseconds since 1970. Without an offset it is in the zone of the clock.
fn time(text: &str, clock: &LocalClock) -> Result<i128, MomentError> {
    if !rfc3339::begins_with_date(text) {
        return Err(unknown(text));
    }
    if text.len() == 10 {
        return moment::local_date(text, clock);
    }
    if moment::is_local_time(text) {
        return moment::local_time(text, text, clock);
    }
    rfc3339::parse(text).map(UtcTime::nanos).map_err(|error| MomentError::new(error.problem, error.hint))
}

fn unknown(text: &str) -> MomentError {
    let hint = match text.parse::<u64>() {
        Ok(seq) => format!("write @seq:{seq}"),
        Err(_) => FORMS.to_owned(),
    };
    MomentError::new(format!("{:?} is not a point in time", clipped(text)), hint)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const UNITS: &str = "use seconds, minutes, hours, days, weeks, months or years";

    #[test]
    fn parses_every_form_of_a_point_in_time() {
        for (text, expected) in [
            ("@seq:100", PointInTime::Seq(100)),
            ("@SEQ:0", PointInTime::Seq(0)),
            ("@seq:18446744073709551615", PointInTime::Seq(u64::MAX)),
            (" @Now ", PointInTime::Now),
            ("2025-01-01T00:00:00Z", PointInTime::Time(1_735_689_600_000)),
            ("2025-01-01 01:00:00.5+01:00", PointInTime::Time(1_735_689_600_500)),
            ("2024-12-31t19:00:00-05:00", PointInTime::Time(1_735_689_600_000)),
            ("2025-01-01T00:00:00.0019Z", PointInTime::Time(1_735_689_600_001)),
            ("1969-12-31T23:59:59.9999Z", PointInTime::Time(-1)),
            ("2025-01-01", PointInTime::Time(1_735_689_600_000)),
            ("2025-01-01T00:00:00", PointInTime::Time(1_735_689_600_000)),
            ("2025-01-01 00:00:00.25", PointInTime::Time(1_735_689_600_250)),
            ("2025-01-01 00:00", PointInTime::Time(1_735_689_600_000)),
            ("Now", PointInTime::Now),
            ("an hour ago", PointInTime::Ago(Duration::from_secs(3600))),
            ("A day ago", PointInTime::Ago(Duration::from_secs(86_400))),
            ("9999-12-31T23:59:59Z", PointInTime::Time(253_402_300_799_000)),
            ("9999-12-31", PointInTime::Time(253_402_214_400_000)),
            ("1 s ago", PointInTime::Ago(Duration::from_secs(1))),
            ("90sec ago", PointInTime::Ago(Duration::from_secs(90))),
            ("5 minutes ago", PointInTime::Ago(Duration::from_secs(300))),
            ("5m ago", PointInTime::Ago(Duration::from_secs(300))),
            ("1 Hour AGO", PointInTime::Ago(Duration::from_secs(3600))),
            ("2 days  ago", PointInTime::Ago(Duration::from_secs(172_800))),
            ("3 weeks ago", PointInTime::Ago(Duration::from_secs(1_814_400))),
        ] {
            let parsed = parse_point(text, &LocalClock::utc(0)).unwrap();
            assert_eq!((parsed.point, parsed.note), (expected, None), "{text}");
        }
    }

    #[test]
    fn invalid_points_in_time_get_a_hint() {
        for (text, hint) in [
            ("100", "write @seq:100"),
            ("@seq:", "write a whole number, for example @seq:100"),
            ("@seq:+1", "write a whole number, for example @seq:100"),
            ("@seq:18446744073709551616", "write a whole number, for example @seq:100"),
            ("@then", "write @seq:100 or @now"),
            ("@", "write @seq:100 or @now"),
            ("@é€:", "write @seq:100 or @now"),
            ("2025-01-01T00", rfc3339::TIME_FORM),
            ("2025-01-01 24:00", rfc3339::TIME_FORM),
            ("yesterday noon", "write it as in \"yesterday 17:30\""),
            ("yesterday 25:00", rfc3339::TIME_FORM),
            ("last week", "for example \"last monday\" or \"1 month ago\""),
            ("last", "for example \"last monday\" or \"1 month ago\""),
            ("2025-02-30", rfc3339::TIME_FORM),
            ("2025-01-01T25:00:00Z", rfc3339::TIME_FORM),
            ("2025-01-01T00:00:00Z[UTC]", "write an offset as \"Z\" or \"+01:00\""),
            ("yesterdya", FORMS),
            ("tomorrow", FORMS),
            ("99999 years ago", "for example \"5 minutes ago\""),
            ("1999 years ago", FORMS),
            ("", FORMS),
            ("ago", UNITS),
            ("five minutes ago", UNITS),
            ("5 fortnights ago", UNITS),
            ("minutes ago", "for example \"5 minutes ago\""),
            ("99999999999999999999 s ago", "for example \"5 minutes ago\""),
            ("18446744073709551615 weeks ago", "for example \"5 minutes ago\""),
        ] {
            assert_eq!(
                parse_point(text, &LocalClock::utc(0)).unwrap_err().place().unwrap().hint,
                hint,
                "{text}"
            );
        }
    }

    #[test]
    fn words_mean_moments_of_the_calendar_in_the_zone_of_the_clock() {
        // A Sunday: 2026-03-29T10:15:30Z. In Berlin, the clocks were set forward some hours before.
        let now = 1_774_779_330_000;
        let clock = |zone: &str| LocalClock::in_zone(zone, now).unwrap();
        for (text, utc, berlin) in [
            ("today", "2026-03-29T00:00:00Z", "2026-03-29T00:00:00+01:00"),
            ("Yesterday", "2026-03-28T00:00:00Z", "2026-03-28T00:00:00+01:00"),
            ("yesterday 17:30", "2026-03-28T17:30:00Z", "2026-03-28T17:30:00+01:00"),
            ("today at 03:00:00.5", "2026-03-29T03:00:00.5Z", "2026-03-29T03:00:00.5+02:00"),
            ("last monday", "2026-03-23T00:00:00Z", "2026-03-23T00:00:00+01:00"),
            ("last Sunday 09:00", "2026-03-22T09:00:00Z", "2026-03-22T09:00:00+01:00"),
            ("1 month ago", "2026-02-28T10:15:30Z", "2026-02-28T12:15:30+01:00"),
            ("a month ago", "2026-02-28T10:15:30Z", "2026-02-28T12:15:30+01:00"),
            ("13 months ago", "2025-02-28T10:15:30Z", "2025-02-28T12:15:30+01:00"),
            ("2 years ago", "2024-03-29T10:15:30Z", "2024-03-29T12:15:30+01:00"),
        ] {
            for (zone, name, expected) in [("", "UTC", utc), ("Europe/Berlin", "Europe/Berlin", berlin)] {
                let expected = rfc3339::parse(expected).unwrap().millis();
                let found = parse_point(text, &clock(zone)).unwrap();
                assert_eq!(found.point, PointInTime::Time(expected), "{text} in {name}");
                let shown = rfc3339::format_millis(expected);
                assert_eq!(found.note, Some(format!("{text:?} means {shown}, in the time zone {name}")));
            }
        }
        for (text, expected) in [
            ("2026-03-29", "2026-03-29T00:00:00+01:00"),
            ("2026-03-29 12:00", "2026-03-29T12:00:00+02:00"),
            ("2026-03-29T12:00:00Z", "2026-03-29T12:00:00Z"),
        ] {
            let expected = rfc3339::parse(expected).unwrap().millis();
            let found = parse_point(text, &clock("Europe/Berlin")).unwrap();
            assert_eq!(found, PointInTime::Time(expected).into(), "{text}");
        }
        let skipped = parse_point("today 02:30", &clock("Europe/Berlin")).unwrap_err();
        assert!(skipped.message().contains("set forward"), "{skipped}");
        let repeated = parse_point("2025-10-26 02:30", &clock("Europe/Berlin")).unwrap_err();
        assert!(repeated.message().contains("came twice in Europe/Berlin"), "{repeated}");
    }
}
