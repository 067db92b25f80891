//! Parses points in time (`@seq:100`, `@now`, a time, a date, `5 minutes ago`) and durations.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::rfc3339;
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::PointInTime;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::location;
use crate::query::parser::state::Parser;

const NANOS_PER_MILLI: i128 = 1_000_000;
/// The hint for a text that is not a point in time.
const FORMS: &str =
    "write \"@seq:100\", \"@now\", \"2025-01-01T00:00:00Z\", \"2025-01-01\" or \"5 minutes ago\"";
/// The hint for a text that is not a time.
const TIMES: &str = "write \"2025-01-01T00:00:00Z\" or \"2025-01-01\"";

/// Parses a point in time without quotes, such as the argument of `--as-of`.
pub fn parse_point(text: &str) -> Result<PointInTime> {
    point(text.trim())
        .map_err(|problem| location::invalid_at(text, 0, text.len(), problem.message, problem.hint))
}

/// What is wrong with a point in time. The caller adds the location.
struct PointError {
    message: String,
    hint: String,
}

impl PointError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        PointError { message: message.into(), hint: hint.into() }
    }
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
        point(text.trim()).map_err(|problem| self.problem(token, problem))
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
        let kept = duration(text.trim())
            .map_err(|problem| self.problem(token, PointError { hint: FORMS.to_owned(), ..problem }))?;
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

    fn problem(&self, token: Token, problem: PointError) -> Error {
        self.invalid(token, problem.message, problem.hint)
    }

    /// Converts the operand of `_time` to milliseconds, as `Condition` documents it.
    pub(super) fn time_operand(&self, token: Token, value: &Value) -> Result<Value> {
        let Value::Str(text) = value else {
            let message = format!("_time is a time and cannot be compared with {}", value.kind());
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
        // Times have at most 15 digits in milliseconds, so adding 0.5 is exact.
        #[expect(clippy::cast_precision_loss, reason = "under 2^53")]
        Ok(Value::Float(millis as f64 + 0.5))
    }
}

fn point(text: &str) -> Result<PointInTime, PointError> {
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

fn named(name: &str, text: &str) -> Result<PointInTime, PointError> {
    if name.eq_ignore_ascii_case("now") {
        return Ok(PointInTime::Now);
    }
    let number = match name.split_at_checked(4) {
        Some((prefix, number)) if prefix.eq_ignore_ascii_case("seq:") => number,
        _ => {
            return Err(PointError::new(
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
            Err(PointError::new(message, "write a whole number, for example @seq:100"))
        }
    }
}

/// `5 minutes`
fn duration(text: &str) -> Result<Duration, PointError> {
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
            let message = format!("unknown time unit {:?}", clipped(unit));
            return Err(PointError::new(message, "use seconds, minutes, hours, days or weeks"));
        }
    };
    let number = number.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
    // A longer duration reaches before the year 1: it is a typing error, and would overflow later computations.
    match number.filter(|n| *n <= 2000 * 366 * 86_400) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(PointError::new(
            "a duration is a whole number and one unit, at most 2000 years",
            "for example \"5 minutes ago\"",
        )),
    }
}

/// Converts an RFC 3339 time, or a date (midnight in UTC), to nanoseconds since 1970.
fn time(text: &str) -> Result<i128, PointError> {
    if !rfc3339::begins_with_date(text) {
        return Err(unknown(text));
    }
    let parsed = if text.len() == 10 { rfc3339::parse_date(text) } else { rfc3339::parse(text) };
    parsed.map(rfc3339::UtcTime::nanos).map_err(|error| PointError::new(error.problem, error.hint))
}

fn unknown(text: &str) -> PointError {
    let hint = match text.parse::<u64>() {
        Ok(seq) => format!("write @seq:{seq}"),
        Err(_) if text.eq_ignore_ascii_case("now") => "write @now".to_owned(),
        Err(_) => FORMS.to_owned(),
    };
    PointError::new(format!("{:?} is not a point in time", clipped(text)), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(parse_point(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn invalid_points_in_time_get_a_hint() {
        for (text, hint) in [
            ("now", "write @now"),
            ("100", "write @seq:100"),
            ("@seq:", "write a whole number, for example @seq:100"),
            ("@seq:+1", "write a whole number, for example @seq:100"),
            ("@seq:18446744073709551616", "write a whole number, for example @seq:100"),
            ("@then", "write @seq:100 or @now"),
            ("@", "write @seq:100 or @now"),
            ("@é€:", "write @seq:100 or @now"),
            ("2025-01-01T00:00:00", "for UTC write \"2025-01-01T00:00:00Z\""),
            ("2025-02-30", rfc3339::TIME_FORM),
            ("2025-01-01T25:00:00Z", rfc3339::TIME_FORM),
            ("2025-01-01T00:00:00Z[UTC]", "write an offset as \"Z\" or \"+01:00\""),
            ("yesterday", FORMS),
            ("", FORMS),
            ("ago", "use seconds, minutes, hours, days or weeks"),
            ("five minutes ago", "use seconds, minutes, hours, days or weeks"),
            ("5 fortnights ago", "use seconds, minutes, hours, days or weeks"),
            ("minutes ago", "for example \"5 minutes ago\""),
            ("99999999999999999999 s ago", "for example \"5 minutes ago\""),
            ("18446744073709551615 weeks ago", "for example \"5 minutes ago\""),
        ] {
            assert_eq!(parse_point(text).unwrap_err().place().unwrap().hint, hint, "{text}");
        }
    }
}
