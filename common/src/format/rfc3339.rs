//! Times as text: RFC 3339, strictly.
//!
//! Everything that takes a time as text parses it here: statements, options of `driftctl`, files of commits. jiff reads more
//! than RFC 3339 and less at its end: it takes `23:59:60` for `23:59:59`, `T23Z`, `+0100` and `+25`, and its timestamps end in
//! the evening of 9999-12-30. A lenient parser makes AS OF answer for another time than the one that was written, so whatever
//! is not exactly a time is refused, with what is wrong and the right form.

use jiff::civil::{Date, DateTime};

/// The hint for a text that is not a time.
pub const TIME_FORM: &str = "write a time as \"2025-01-01T00:00:00Z\"";

const NANOS_PER_SECOND: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// The seconds from 1970 to 0001-01-01T00:00:00Z, the first time that a protobuf timestamp can hold.
pub const FIRST_SECOND: i64 = -62_135_596_800;
/// The seconds from 1970 to 9999-12-31T23:59:59Z, the last ones that a protobuf timestamp can hold.
pub const LAST_SECOND: i64 = 253_402_300_799;
/// The digits of a second's fraction.
const FRACTION_DIGITS: usize = 9;

/// A time, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime {
    nanos: i128,
}

/// Why a text is not a time. The caller adds where the text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeError {
    /// What is wrong with it, such as `the offset "+0100" has no colon`.
    pub problem: String,
    /// The right form, such as `write "+01:00"`.
    pub hint: String,
}

impl std::fmt::Display for TimeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.problem, self.hint)
    }
}

impl std::error::Error for TimeError {}

fn wrong(problem: impl Into<String>) -> TimeError {
    TimeError { problem: problem.into(), hint: TIME_FORM.to_owned() }
}

fn hinted(problem: impl Into<String>, hint: impl Into<String>) -> TimeError {
    TimeError { problem: problem.into(), hint: hint.into() }
}

impl UtcTime {
    /// A time by its seconds since 1970 and nanoseconds after them; `None` outside of the years 1 to 9999, or if the
    /// nanoseconds are not a fraction of a second.
    pub fn from_parts(seconds: i64, nanos: i32) -> Option<UtcTime> {
        let fraction = u32::try_from(nanos).ok().filter(|nanos| i128::from(*nanos) < NANOS_PER_SECOND)?;
        (FIRST_SECOND..=LAST_SECOND)
            .contains(&seconds)
            .then(|| UtcTime { nanos: i128::from(seconds) * NANOS_PER_SECOND + i128::from(fraction) })
    }

    /// A time by its nanoseconds since 1970; `None` outside of the years 1 to 9999.
    pub fn from_nanos(nanos: i128) -> Option<UtcTime> {
        let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).ok()?;
        UtcTime::from_parts(seconds, i32::try_from(nanos.rem_euclid(NANOS_PER_SECOND)).ok()?)
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// Milliseconds since 1970, rounded down.
    pub fn millis(self) -> i64 {
        i64::try_from(self.nanos.div_euclid(NANOS_PER_MILLI)).unwrap_or(i64::MAX)
    }

    /// Seconds since 1970, rounded down, and the nanoseconds after them.
    pub fn parts(self) -> (i64, i32) {
        let seconds = i64::try_from(self.nanos.div_euclid(NANOS_PER_SECOND)).unwrap_or(i64::MAX);
        (seconds, i32::try_from(self.nanos.rem_euclid(NANOS_PER_SECOND)).unwrap_or_default())
    }
}

/// As short as it is exact: `2025-01-01T00:00:00.5Z`.
impl std::fmt::Display for UtcTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}Z", civil(jiff::SignedDuration::new(self.parts().0, self.parts().1)))
    }
}

impl std::str::FromStr for UtcTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<UtcTime, TimeError> {
        parse(text)
    }
}

/// Parses a time: `2025-01-01T00:00:00Z`, with at most nine digits of a second and with `Z` or an offset such as `+01:00`. As
/// RFC 3339 allows, `T` and `Z` can be lower case, and a space can take the place of `T`.
pub fn parse(text: &str) -> Result<UtcTime, TimeError> {
    let (date, rest) = text.split_at_checked(10).ok_or_else(|| wrong(not_a_time(text)))?;
    let days = days_of(date)?;
    let Some(clock) = rest.strip_prefix(['T', 't', ' ']) else {
        let problem =
            if rest.is_empty() { "the time of day is missing".to_owned() } else { not_a_time(text) };
        return Err(wrong(problem));
    };
    let (seconds, rest) = seconds_of_day(clock, date)?;
    let (fraction, offset) = fraction(rest)?;
    let offset = offset_seconds(offset, text)?;
    let seconds = days * SECONDS_PER_DAY + seconds - offset;
    UtcTime::from_parts(seconds, fraction)
        .ok_or_else(|| wrong("the time is outside of the years 0001 to 9999 in UTC".to_owned()))
}

/// Parses a date, as midnight in UTC: `2025-01-01`.
pub fn parse_date(text: &str) -> Result<UtcTime, TimeError> {
    UtcTime::from_parts(days_of(text)? * SECONDS_PER_DAY, 0)
        .ok_or_else(|| wrong("the year 0000 is not supported".to_owned()))
}

/// Whether a text begins like a date, so that it is meant as a time.
pub fn begins_with_date(text: &str) -> bool {
    text.len() >= 10
        && text.bytes().take(10).enumerate().all(|(i, byte)| match i {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Formats milliseconds since 1970 in UTC, as `2026-01-31T12:00:00.000Z`. Times outside of the years 1 to 9999 become the first
/// or the last time of these.
pub fn format_millis(millis: i64) -> String {
    let millis = millis.clamp(FIRST_SECOND * 1000, LAST_SECOND * 1000 + 999);
    civil(jiff::SignedDuration::from_millis(millis)).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The date and the time of day in UTC.
fn civil(since_1970: jiff::SignedDuration) -> DateTime {
    DateTime::constant(1970, 1, 1, 0, 0, 0, 0).checked_add(since_1970).unwrap_or(DateTime::MAX)
}

fn not_a_time(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("{shown:?} is not a time")
}

/// The days from 1970 to a date.
fn days_of(date: &str) -> Result<i64, TimeError> {
    let number =
        |range: std::ops::Range<usize>| date.get(range).and_then(|digits| digits.parse::<i16>().ok());
    let parts = (number(0..4), number(5..7), number(8..10));
    let (Some(year), Some(month), Some(day)) = parts else { return Err(wrong(not_a_time(date))) };
    if date.len() != 10 || !begins_with_date(date) {
        return Err(wrong(not_a_time(date)));
    }
    let small = |number: i16| i8::try_from(number).unwrap_or(i8::MAX);
    let date =
        Date::new(year, small(month), small(day)).map_err(|_| wrong(format!("there is no date {date}")))?;
    let days = date.since(Date::constant(1970, 1, 1)).map_err(|_| wrong(not_a_time(&date.to_string())))?;
    Ok(i64::from(days.get_days()))
}

/// Two digits at the start of a text, and the rest.
fn two_digits(text: &str) -> Option<(i64, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    let all = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all).map(|number| (number, rest))
}

/// The seconds since midnight of `HH:MM:SS`, and the text after it.
fn seconds_of_day<'a>(clock: &'a str, date: &str) -> Result<(i64, &'a str), TimeError> {
    let part = |text: &'a str, what: &str| {
        let found = two_digits(text);
        found.ok_or_else(|| wrong(format!("the {what} must have two digits")))
    };
    let next = |rest: &'a str, missing: &str| {
        let after = rest.strip_prefix(':');
        after.ok_or_else(|| wrong(format!("the {missing} missing")))
    };
    let (hour, rest) = part(clock, "hours")?;
    let (minute, rest) = part(next(rest, "minutes and seconds are")?, "minutes")?;
    let (second, rest) = part(next(rest, "seconds are")?, "seconds")?;
    if hour > 23 || minute > 59 || second > 60 {
        return Err(wrong(format!("there is no time of day {hour:02}:{minute:02}:{second:02}")));
    }
    if second == 60 {
        let problem = format!("there is no second {hour:02}:{minute:02}:60: leap seconds are not supported");
        return Err(hinted(
            problem,
            format!("write \"{date}T{hour:02}:{minute:02}:59.999Z\" or the next second"),
        ));
    }
    Ok((hour * 3600 + minute * 60 + second, rest))
}

/// The nanoseconds of a second's fraction, which may be missing, and the text after it.
fn fraction(text: &str) -> Result<(i32, &str), TimeError> {
    let Some(rest) = text.strip_prefix('.') else { return Ok((0, text)) };
    let len = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = rest.split_at_checked(len).unwrap_or((rest, ""));
    if digits.is_empty() {
        return Err(wrong("the fraction of the second has no digits"));
    }
    if digits.len() > FRACTION_DIGITS {
        let problem =
            format!("the fraction of the second has {} digits, the limit is {FRACTION_DIGITS}", digits.len());
        let kept = digits.get(..FRACTION_DIGITS).unwrap_or(digits);
        return Err(hinted(problem, format!("write \".{kept}\"")));
    }
    let padded = format!("{digits:0<FRACTION_DIGITS$}");
    Ok((padded.parse().unwrap_or_default(), rest))
}

/// The offset from UTC in seconds; the text must end after it.
fn offset_seconds(offset: &str, text: &str) -> Result<i64, TimeError> {
    const FORM: &str = "write an offset as \"Z\" or \"+01:00\"";
    if matches!(offset, "Z" | "z") {
        return Ok(0);
    }
    if offset.is_empty() {
        let shown: String = text.chars().take(40).collect();
        return Err(hinted(
            format!("the time {shown:?} has no UTC offset"),
            format!("for UTC write \"{shown}Z\""),
        ));
    }
    let shown: String = offset.chars().take(40).collect();
    let malformed = || hinted(format!("{shown:?} is not an offset from UTC"), FORM);
    let (sign, rest) = match offset.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(malformed()),
    };
    let (hours, rest) = two_digits(rest).ok_or_else(malformed)?;
    let minutes = rest.strip_prefix(':').and_then(two_digits);
    let Some((minutes, "")) = minutes else {
        return match two_digits(rest) {
            Some((minutes, "")) => {
                let sign = if sign < 0 { '-' } else { '+' };
                let problem = format!("the offset {shown:?} has no colon");
                Err(hinted(problem, format!("write \"{sign}{hours:02}:{minutes:02}\"")))
            }
            _ => Err(malformed()),
        };
    };
    if hours > 23 || minutes > 59 {
        return Err(hinted(format!("there is no offset {shown}: it is at most 23:59"), FORM));
    }
    Ok(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_read_to_the_nanosecond() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2025-01-01T00:00:00Z", 1_735_689_600, 0),
            ("2025-01-01 01:00:00.5+01:00", 1_735_689_600, 500_000_000),
            ("2024-12-31t19:00:00-05:00", 1_735_689_600, 0),
            ("2025-01-01T00:00:00.123456789z", 1_735_689_600, 123_456_789),
            ("2024-02-29T23:59:59-00:00", 1_709_251_199, 0),
            ("1969-12-31T23:59:59.9Z", -1, 900_000_000),
            ("9999-12-31T23:59:59Z", LAST_SECOND, 0),
            ("9999-12-31T23:59:59.999Z", LAST_SECOND, 999_000_000),
            ("9999-12-31T23:59:59.999999999+00:00", LAST_SECOND, 999_999_999),
            ("0001-01-01T00:00:00Z", FIRST_SECOND, 0),
        ] {
            assert_eq!(parse(text).map(UtcTime::parts), Ok((seconds, nanos)), "{text}");
        }
        assert_eq!(parse_date("9999-12-31").map(|time| time.parts().0), Ok(LAST_SECOND - 86_399));
    }

    #[test]
    fn what_is_not_exactly_a_time_is_refused_with_the_right_form() {
        for (text, problem, hint) in [
            ("2016-12-31T23:59:60Z", "leap seconds are not supported", "2016-12-31T23:59:59.999Z"),
            ("2016-12-31T12:30:60Z", "there is no second 12:30:60", "2016-12-31T12:30:59.999Z"),
            ("2016-12-31T23:59:61Z", "no time of day 23:59:61", TIME_FORM),
            ("2016-12-31T24:00:00Z", "no time of day 24:00:00", TIME_FORM),
            ("2016-12-31T23:60:00Z", "no time of day 23:60:00", TIME_FORM),
            ("2016-12-31T23:59:59.5000000001Z", "10 digits, the limit is 9", ".500000000"),
            ("2016-12-31T23:59:59.Z", "has no digits", TIME_FORM),
            ("2016-12-31T23:59:59,5Z", "\",5Z\" is not an offset", "+01:00"),
            ("2017-01-01T00:59:59.9+0100", "has no colon", "\"+01:00\""),
            ("2017-01-01T00:59:59.9-0130", "has no colon", "\"-01:30\""),
            ("2017-01-01T00:59:59+01", "\"+01\" is not an offset", "+01:00"),
            ("2016-12-31T23:59:59.9+25:00", "no offset +25:00", "+01:00"),
            ("2016-12-31T23:59:59+01:60", "no offset +01:60", "+01:00"),
            ("2016-12-31T23Z", "the minutes and seconds are missing", TIME_FORM),
            ("2016-12-31T23:59Z", "the seconds are missing", TIME_FORM),
            ("2016-12-31T3:59:00Z", "the hours must have two digits", TIME_FORM),
            ("2016-12-31T23:59:59", "has no UTC offset", "2016-12-31T23:59:59Z"),
            ("2016-12-31T23:59:59ZZ", "is not an offset", "+01:00"),
            ("2016-12-31T23:59:59Z[UTC]", "is not an offset", "+01:00"),
            ("2016-12-31", "the time of day is missing", TIME_FORM),
            ("2016-12-31X23:59:59Z", "is not a time", TIME_FORM),
            ("2015-02-29T00:00:00Z", "there is no date 2015-02-29", TIME_FORM),
            ("2015-13-01T00:00:00Z", "there is no date 2015-13-01", TIME_FORM),
            ("+02015-01-01T00:00:00Z", "is not a time", TIME_FORM),
            ("20150101T000000Z", "is not a time", TIME_FORM),
            ("9999-12-31T23:59:59-00:01", "outside of the years", TIME_FORM),
            ("0000-12-31T00:00:00Z", "outside of the years", TIME_FORM),
            ("0001-01-01T00:00:00+00:01", "outside of the years", TIME_FORM),
            ("", "is not a time", TIME_FORM),
            ("é€-ééééééé", "is not a time", TIME_FORM),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.problem.contains(problem) && error.hint.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn every_time_is_printed() {
        assert_eq!(format_millis(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_millis(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(format_millis(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(format_millis(i64::MIN), "0001-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn a_printed_time_is_read_back(millis in FIRST_SECOND * 1000..=LAST_SECOND * 1000 + 999) {
            prop_assert_eq!(parse(&format_millis(millis)).map(UtcTime::millis), Ok(millis));
            let time = UtcTime { nanos: i128::from(millis) * NANOS_PER_MILLI + 500_000 };
            prop_assert_eq!(parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn jiff_agrees_about_every_time_that_is_taken(
            text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,10})?([zZ]|[+-][0-2][0-9]:?[0-6][0-9])"
        ) {
            if let Ok(time) = parse(&text) {
                let jiff = text.parse::<jiff::Timestamp>().unwrap();
                prop_assert_eq!(jiff.as_nanosecond(), time.nanos());
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
