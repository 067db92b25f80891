//! Parses moments: `@seq:100`, `@now`, a time, a date, or how long ago; and how long history is kept.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::error::{Error, Result};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::PointInTime;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::parser::Parser;
use crate::query::report;

const NANOS_PER_MILLI: i128 = 1_000_000;
/// What would do, where a text is no moment.
const FORMS: &str =
    "write \"@seq:100\", \"@now\", \"2025-01-01T00:00:00Z\", \"2025-01-01\" or \"5 minutes ago\"";
/// The same, where only a time will do.
const TIMES: &str = "write \"2025-01-01T00:00:00Z\" or \"2025-01-01\"";

/// Parses a moment as it stands alone, without quotes: the argument of `--as-of`.
pub fn parse_point(text: &str) -> Result<PointInTime> {
    point(text.trim())
        .map_err(|problem| report::invalid_at(text, 0, text.len(), problem.message, problem.hint))
}

/// What is wrong with a moment; whoever read it knows its place.
struct Problem {
    message: String,
    hint: String,
}

impl Problem {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { message: message.into(), hint: hint.into() }
    }
}

impl Parser<'_> {
    /// A moment: in quotes, or `@…` without.
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
                    let message = format!("a moment is a string, and this is {}", other.kind());
                    return Err(self.invalid(token, message, FORMS));
                }
            },
            TokenKind::Number => return Err(self.expected("a moment", &[], &self.number_hint(token))),
            _ => return Err(self.expected("a moment", &[], FORMS)),
        };
        point(text.trim()).map_err(|problem| self.problem(token, problem))
    }

    /// How long history is kept, in milliseconds: `"90d"`.
    pub(super) fn retention(&mut self) -> Result<u64> {
        const FORMS: &str = "as in RETAIN \"90d\", with s, m, h, d or w";
        let token = self.token;
        if !matches!(token.kind, TokenKind::Str | TokenKind::Param) {
            // ALTER TABLE, which has the word, has taken it.
            let (words, hint): (&[&str], _) = match self.at_keyword("FOREVER") {
                true => (&[], "leave RETAIN out: without it history is kept for ever"),
                false => (&["FOREVER"], FORMS),
            };
            return Err(self.expected("how long history is kept, in quotes", words, hint));
        }
        let Value::Str(text) = self.value()? else {
            return Err(self.invalid(token, "how long history is kept is a string", FORMS));
        };
        let kept = duration(text.trim())
            .map_err(|problem| self.problem(token, Problem { hint: FORMS.to_owned(), ..problem }))?;
        let millis = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        if millis < limits::RETAIN_LEAST_SECS * 1000 {
            return Err(self.invalid(token, "history is kept for a second at least", FORMS));
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

    fn problem(&self, token: Token, problem: Problem) -> Error {
        self.invalid(token, problem.message, problem.hint)
    }

    /// What `_time` is compared with, as `Condition` has it.
    pub(super) fn time_operand(&self, token: Token, value: &Value) -> Result<Value> {
        let Value::Str(text) = value else {
            let message = format!("_time compares with a time, and this is {}", value.kind());
            return Err(self.invalid(token, message, TIMES));
        };
        let nanos = time(text.trim()).map_err(|problem| match problem.hint.as_str() {
            FORMS => self.invalid(token, format!("{:?} is not a time", clipped(text)), TIMES),
            _ => self.problem(token, problem),
        })?;
        let millis = nanos.div_euclid(NANOS_PER_MILLI);
        if nanos.rem_euclid(NANOS_PER_MILLI) == 0 {
            return Ok(Value::Int(millis));
        }
        // Times have at most 15 digits in milliseconds, so that the half is exact.
        #[expect(clippy::cast_precision_loss, reason = "under 2^53")]
        Ok(Value::Float(millis as f64 + 0.5))
    }
}

fn point(text: &str) -> Result<PointInTime, Problem> {
    if let Some(name) = text.strip_prefix('@') {
        return named(name, text);
    }
    let ago = text.len().checked_sub(3).and_then(|at| text.split_at_checked(at));
    if let Some((length, word)) = ago
        && word.eq_ignore_ascii_case("ago")
    {
        return duration(length.trim_end()).map(PointInTime::Ago);
    }
    let millis = time(text)?.div_euclid(NANOS_PER_MILLI);
    i64::try_from(millis).map(PointInTime::Time).map_err(|_| unknown(text))
}

fn named(name: &str, text: &str) -> Result<PointInTime, Problem> {
    if name.eq_ignore_ascii_case("now") {
        return Ok(PointInTime::Now);
    }
    let number = match name.split_at_checked(4) {
        Some((prefix, number)) if prefix.eq_ignore_ascii_case("seq:") => number,
        _ => {
            return Err(Problem::new(
                format!("unknown moment {:?}", clipped(text)),
                "write @seq:100 or @now",
            ));
        }
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match number.parse() {
        Ok(seq) if digits => Ok(PointInTime::Seq(seq)),
        _ => {
            let message = format!("{:?} is not a sequence number", clipped(number));
            Err(Problem::new(message, "write a whole number, as in @seq:100"))
        }
    }
}

/// `5 minutes`
fn duration(text: &str) -> Result<Duration, Problem> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let seconds: u64 = match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => {
            let message = format!("unknown unit of time {:?}", clipped(unit));
            return Err(Problem::new(message, "write seconds, minutes, hours, days or weeks"));
        }
    };
    let number = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
    // What lies before the year 1 of our reckoning is a slip, and would overflow what computes with it.
    match number.filter(|n| *n <= 2000 * 366 * 86_400) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(Problem::new(
            "a span of time is a whole number of one unit, within 2000 years",
            "as in \"5 minutes ago\"",
        )),
    }
}

/// Nanoseconds since 1970 of an RFC 3339 time, or of a date: its midnight in UTC.
fn time(text: &str) -> Result<i128, Problem> {
    let date_only = text.len() == 10;
    // What jiff reads beyond RFC 3339 is kept out, so that a text means the same to every client.
    let shaped = text.bytes().enumerate().all(|(i, b)| match i {
        4 | 7 => b == b'-',
        0..10 => b.is_ascii_digit(),
        10 => matches!(b, b'T' | b't' | b' '),
        _ => b.is_ascii_digit() || matches!(b, b':' | b'.' | b'+' | b'-' | b'Z' | b'z'),
    });
    if !shaped || text.len() < 10 {
        return Err(unknown(text));
    }
    let parsed = if date_only {
        text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC)).map(|zoned| zoned.timestamp())
    } else {
        let clock = text.get(11..).unwrap_or_default();
        if !clock.contains(['Z', 'z', '+', '-']) {
            let message = format!("the time {:?} has no offset", clipped(text));
            return Err(Problem::new(message, format!("for UTC write \"{}Z\"", clipped(text))));
        }
        text.parse::<Timestamp>()
    };
    match parsed {
        Ok(timestamp) => Ok(timestamp.as_nanosecond()),
        Err(_) => Err(Problem::new(format!("there is no time {:?}", clipped(text)), FORMS)),
    }
}

fn unknown(text: &str) -> Problem {
    let hint = match text.parse::<u64>() {
        Ok(seq) => format!("write @seq:{seq}"),
        Err(_) if text.eq_ignore_ascii_case("now") => "write @now".to_owned(),
        Err(_) => FORMS.to_owned(),
    };
    Problem::new(format!("{:?} is not a moment", clipped(text)), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_moment() {
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
            ("1 s ago", PointInTime::Ago(Duration::from_secs(1))),
            ("90sec ago", PointInTime::Ago(Duration::from_secs(90))),
            ("5 minutes ago", PointInTime::Ago(Duration::from_secs(300))),
            ("5m ago", PointInTime::Ago(Duration::from_secs(300))),
            ("1 Hour AGO", PointInTime::Ago(Duration::from_secs(3600))),
            ("2 days  ago", PointInTime::Ago(Duration::from_secs(172_800))),
            ("3 weeks ago", PointInTime::Ago(Duration::from_secs(1_814_400))),
        ] {
            assert_eq!(parse_point(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_gets_a_hint() {
        for (text, hint) in [
            ("now", "write @now"),
            ("100", "write @seq:100"),
            ("@seq:", "write a whole number, as in @seq:100"),
            ("@seq:+1", "write a whole number, as in @seq:100"),
            ("@seq:18446744073709551616", "write a whole number, as in @seq:100"),
            ("@then", "write @seq:100 or @now"),
            ("@", "write @seq:100 or @now"),
            ("@é€:", "write @seq:100 or @now"),
            ("2025-01-01T00:00:00", "for UTC write \"2025-01-01T00:00:00Z\""),
            ("2025-02-30", FORMS),
            ("2025-01-01T25:00:00Z", FORMS),
            ("2025-01-01T00:00:00Z[UTC]", FORMS),
            ("yesterday", FORMS),
            ("", FORMS),
            ("ago", "write seconds, minutes, hours, days or weeks"),
            ("five minutes ago", "write seconds, minutes, hours, days or weeks"),
            ("5 fortnights ago", "write seconds, minutes, hours, days or weeks"),
            ("minutes ago", "as in \"5 minutes ago\""),
            ("99999999999999999999 s ago", "as in \"5 minutes ago\""),
            ("18446744073709551615 weeks ago", "as in \"5 minutes ago\""),
        ] {
            assert_eq!(parse_point(text).unwrap_err().place().unwrap().hint, hint, "{text}");
        }
    }
}
