//! Moments in words (`yesterday 17:30`, `last monday`, `1 month ago`), and dates and times in the time zone of the request.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{SignedDuration, Span};

use crate::format::rfc3339;
use crate::query::lexer::clipped;
use crate::query::local_clock::{LocalClock, LocalTimeProblem};

const NANOS_PER_MILLI: i128 = 1_000_000;
/// The length of `2025-01-01`.
const DATE_LEN: usize = 10;
/// The most months that a moment can lie in the past: 2000 years.
const MAX_MONTHS: u64 = 24_000;
/// The longest time that a moment can lie in the past, in seconds: 2000 years.
const MAX_SECONDS: u64 = 2000 * 366 * 86_400;
const UNITS: &str = "use seconds, minutes, hours, days, weeks, months or years";
const DURATION_UNITS: &str = "use seconds, minutes, hours, days or weeks";
const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];

/// What is wrong with a text that should name a moment. The caller adds the location.
#[derive(Debug)]
pub(super) struct MomentError {
    pub(super) message: String,
    pub(super) hint: String,
}

impl MomentError {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        MomentError { message: message.into(), hint: hint.into() }
    }
}

const SECONDS_PER_DAY: u64 = 86_400;

/// The distance of a moment from now, or from the next moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// A fixed time.
    Fixed(Duration),
    /// Days of the calendar; before now, each is 24 hours.
    Days(u64),
    /// Months of the calendar.
    Months(u64),
}

/// Parses a length of a fixed time, such as `90d`.
pub(super) fn duration(text: &str) -> Result<Duration, MomentError> {
    match length(text)? {
        Length::Fixed(duration) => Ok(duration),
        Length::Days(days) => Ok(of_days(days)),
        Length::Months(_) => {
            let message = "months and years have no fixed length";
            Err(MomentError::new(message, DURATION_UNITS))
        }
    }
}

/// So many times 24 hours. No length has so many days that they overflow.
pub(super) fn of_days(days: u64) -> Duration {
    Duration::from_secs(days.saturating_mul(SECONDS_PER_DAY))
}

/// Parses a length, such as `5 minutes`, `an hour` or `1 month`.
pub(super) fn length(text: &str) -> Result<Length, MomentError> {
    let (number, unit) = number_and_unit(text);
    let (size, kind): (u64, fn(u64) -> Length) = match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => (1, of_seconds),
        "m" | "min" | "mins" | "minute" | "minutes" => (60, of_seconds),
        "h" | "hour" | "hours" => (3600, of_seconds),
        "d" | "day" | "days" => (1, Length::Days),
        "w" | "week" | "weeks" => (7, Length::Days),
        "month" | "months" => (1, Length::Months),
        "year" | "years" => (12, Length::Months),
        _ => return Err(MomentError::new(format!("unknown time unit {:?}", clipped(unit)), UNITS)),
    };
    let length = number.and_then(|number| number.checked_mul(size)).map(kind);
    // A longer time reaches before the year 1: it is a typing error, and would overflow later computations.
    let is_possible = |length: &Length| match length {
        Length::Fixed(time) => time.as_secs() <= MAX_SECONDS,
        Length::Days(days) => *days <= MAX_SECONDS / SECONDS_PER_DAY,
        Length::Months(months) => *months <= MAX_MONTHS,
    };
    length.filter(is_possible).ok_or_else(|| {
        MomentError::new(
            "a duration is a whole number and one unit, at most 2000 years",
            "for example \"5 minutes ago\"",
        )
    })
}

fn of_seconds(seconds: u64) -> Length {
    Length::Fixed(Duration::from_secs(seconds))
}

/// Splits `5 minutes` and `an hour`. A number that is missing or too great is `None`.
fn number_and_unit(text: &str) -> (Option<u64>, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if let Some((article, unit)) = text.split_once(char::is_whitespace)
        && (article.eq_ignore_ascii_case("a") || article.eq_ignore_ascii_case("an"))
    {
        return (Some(1), unit.trim_start());
    }
    (number.parse().ok(), unit.trim_start())
}

/// The moment some months before now, at the same time of day, in milliseconds since 1970. A day that the month does not have is
/// its last day.
pub(super) fn months_ago(months: u64, clock: &LocalClock) -> Option<i64> {
    let span = Span::new().try_months(i64::try_from(months).ok()?).ok()?;
    let then = clock.local_now().checked_sub(span).ok()?;
    // Times are written with four digits of the year.
    clock.nearest_ms(then).filter(|_| then.year() >= 1)
}

/// Parses `today`, `yesterday` and `last monday`, each with or without a time of day, to milliseconds since 1970. `None` if the
/// text does not begin with one of these words.
pub(super) fn day_in_words(text: &str, clock: &LocalClock) -> Option<Result<i64, MomentError>> {
    let (first, mut rest) = first_word(text);
    let today = clock.local_now().date();
    let date = match first.to_ascii_lowercase().as_str() {
        "today" => Some(today),
        "yesterday" => today.yesterday().ok(),
        "last" => {
            let (name, after) = first_word(rest);
            let found = WEEKDAYS.iter().find(|(weekday, _)| weekday.eq_ignore_ascii_case(name));
            let Some((_, weekday)) = found else {
                let message =
                    format!("\"last\" must be followed by a day of the week, found {:?}", clipped(rest));
                return Some(Err(MomentError::new(
                    message,
                    "for example \"last monday\" or \"1 month ago\"",
                )));
            };
            rest = after;
            today.nth_weekday(-1, *weekday).ok()
        }
        _ => return None,
    };
    let out_of_range = || MomentError::new("the day is out of range", rfc3339::TIME_FORM);
    let moment = date.ok_or_else(out_of_range).and_then(|date| at_time_of_day(date, rest, text, clock));
    Some(moment)
}

fn first_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn at_time_of_day(date: Date, time: &str, text: &str, clock: &LocalClock) -> Result<i64, MomentError> {
    let out_of_range = || MomentError::new("the day is out of range", rfc3339::TIME_FORM);
    if time.is_empty() {
        return clock.nearest_ms(date.to_datetime(Time::midnight())).ok_or_else(out_of_range);
    }
    let (first, rest) = first_word(time);
    let time = if first.eq_ignore_ascii_case("at") { rest } else { time };
    let written = format!("{date}T{time}");
    if !is_local_time(&written) {
        let message = format!("{:?} is not a time of day", clipped(time));
        return Err(MomentError::new(message, "write it as in \"yesterday 17:30\""));
    }
    let nanos = local_time(&written, text, clock)?;
    i64::try_from(nanos.div_euclid(NANOS_PER_MILLI)).map_err(|_| out_of_range())
}

/// Whether a text is a date and a time of day without an offset: `2025-01-01 09:30`, `2025-01-01T09:30:00.5`.
pub(super) fn is_local_time(text: &str) -> bool {
    let Some((_, rest)) = text.split_at_checked(DATE_LEN) else { return false };
    let Some(time) = rest.strip_prefix(['T', 't', ' ']) else { return false };
    rfc3339::begins_with_date(text)
        && time.len() >= 5
        && time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
}

/// Parses a date and a time of day in the zone of the clock, to nanoseconds since 1970. `shown` is the text for errors.
pub(super) fn local_time(text: &str, shown: &str, clock: &LocalClock) -> Result<i128, MomentError> {
    let seconds = if text.len() == DATE_LEN + 6 { ":00" } else { "" };
    // Parsed as UTC, to take the date and the time of day from it.
    let read = rfc3339::parse(&format!("{text}{seconds}Z"));
    let nanos = read.map_err(|error| MomentError::new(error.problem, error.hint))?.nanos();
    if clock.is_utc() {
        return Ok(nanos);
    }
    let zone = clock.zone_name();
    clock.exact(civil(nanos)).map_err(|problem| {
        let shown = clipped(shown);
        let (message, hint) = match problem {
            LocalTimeProblem::Skipped => (
                format!("there is no {shown:?} in {zone}: the clocks were set forward over it"),
                "write another time, or one with an offset, as \"2025-01-01T00:00:00+01:00\"",
            ),
            LocalTimeProblem::Repeated => (
                format!("{shown:?} came twice in {zone}: the clocks were set back"),
                "write the time with its offset, as \"2025-01-01T00:00:00+01:00\"",
            ),
            LocalTimeProblem::OutOfRange => (format!("{shown:?} is out of range"), rfc3339::TIME_FORM),
        };
        MomentError::new(message, hint)
    })
}

/// Parses a date as the beginning of that day in the zone of the clock, to nanoseconds since 1970.
pub(super) fn local_date(text: &str, clock: &LocalClock) -> Result<i128, MomentError> {
    let nanos =
        rfc3339::parse_date(text).map_err(|error| MomentError::new(error.problem, error.hint))?.nanos();
    if clock.is_utc() {
        return Ok(nanos);
    }
    let out_of_range =
        || MomentError::new(format!("{:?} is out of range", clipped(text)), rfc3339::TIME_FORM);
    clock.nearest(civil(nanos)).ok_or_else(out_of_range)
}

fn civil(nanos: i128) -> DateTime {
    let since_1970 = SignedDuration::from_nanos_i128(nanos);
    DateTime::constant(1970, 1, 1, 0, 0, 0, 0).checked_add(since_1970).unwrap_or(DateTime::MAX)
}
