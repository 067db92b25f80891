//! Formats conditions, columns and the parts of a select list as DriftQL. Parsing the text returns the same again.

use std::collections::HashMap;
use std::fmt;

use crate::format::json;
use crate::format::rfc3339::UtcTime;
use crate::format::value::Value;
use crate::query::ast::{Aggregate, AggregateFunction, Column, Comparison, Condition, OrderBy, SelectItem};
use crate::query::keywords::{RESERVED, is_any};

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Column::Key => return f.write_str("_key"),
            Column::Seq => return f.write_str("_seq"),
            Column::Time => return f.write_str("_time"),
            Column::Path(path) => path,
            Column::Aggregate(aggregate) => return aggregate.fmt(f),
        };
        for (i, name) in path.names().iter().enumerate() {
            let dot = if i > 0 { "." } else { "" };
            write!(f, "{dot}{}", Name(name))?;
        }
        Ok(())
    }
}

/// A name, in backticks if it needs them.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0;
        let first = name.chars().next();
        let plain = first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !is_any(name, RESERVED)
            && !["_key", "_seq", "_time"].contains(&name);
        if plain { f.write_str(name) } else { write!(f, "`{}`", name.replace('`', "``")) }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(argument) = &self.argument else { return f.write_str("COUNT(*)") };
        let distinct = if self.function == AggregateFunction::CountDistinct { "DISTINCT " } else { "" };
        write!(f, "{}({distinct}{argument})", self.function.name())
    }
}

impl AggregateFunction {
    /// The word before the parenthesis.
    pub fn name(self) -> &'static str {
        match self {
            AggregateFunction::Count | AggregateFunction::CountDistinct => "COUNT",
            AggregateFunction::Sum => "SUM",
            AggregateFunction::Avg => "AVG",
            AggregateFunction::Min => "MIN",
            AggregateFunction::Max => "MAX",
        }
    }
}

impl fmt::Display for SelectItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.alias {
            Some(alias) => write!(f, "{} AS {}", self.column, Name(alias)),
            None => self.column.fmt(f),
        }
    }
}

impl fmt::Display for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.descending { " DESC" } else { "" };
        write!(f, "{}{direction}", self.column)
    }
}

impl Column {
    /// Returns the names of columns in results: the names of each joined by dots. If another of the columns would get the same name, as
    /// `a.b` and the field "a.b" would, then the names that are not plain are in backticks.
    pub fn labels(columns: &[&Column]) -> Vec<String> {
        // The column that has a name; `None` if several do.
        let mut owners: HashMap<String, Option<&Column>> = HashMap::new();
        for column in columns {
            for label in [column.plain_label(), column.quoted_label()] {
                let owner = owners.entry(label).or_insert(Some(column));
                if *owner != Some(column) {
                    *owner = None;
                }
            }
        }
        let label = |column: &&Column| {
            let plain = column.plain_label();
            let is_own = column.is_plain() || owners.get(&plain).is_some_and(Option::is_some);
            if is_own { plain } else { column.quoted_label() }
        };
        columns.iter().map(label).collect()
    }

    /// Whether no other column can have the same plain label, unless that one is not plain.
    fn is_plain(&self) -> bool {
        let Column::Path(path) = self else { return true };
        let own = |name: &String| ["_key", "_seq", "_time"].contains(&name.as_str());
        !path.names().iter().any(|name| name.contains(['.', '`']) || own(name))
    }

    fn plain_label(&self) -> String {
        match self {
            Column::Path(path) => path.names().join("."),
            own => own.to_string(),
        }
    }

    /// Returns a name that no other column has: names that are not plain are in backticks.
    fn quoted_label(&self) -> String {
        let Column::Path(path) = self else { return self.to_string() };
        let own = |name: &str| ["_key", "_seq", "_time"].contains(&name);
        let label = |name: &String| match name.is_empty() || name.contains(['.', '`']) || own(name) {
            true => format!("`{}`", name.replace('`', "``")),
            false => name.clone(),
        };
        path.names().iter().map(label).collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Condition::And(parts) => {
                joined(f, parts, " AND ", |part| matches!(part, Condition::And(_) | Condition::Or(_)))
            }
            Condition::Or(parts) => joined(f, parts, " OR ", |part| matches!(part, Condition::Or(_))),
            Condition::Not(inner) => match **inner {
                Condition::And(_) | Condition::Or(_) => write!(f, "NOT ({inner})"),
                _ => write!(f, "NOT {inner}"),
            },
            Condition::Compare { column, op, value } => {
                write!(f, "{column} {op} {}", Literal(column, value))
            }
            Condition::In { column, values, negated } => {
                write!(f, "{column} {}IN (", not(negated))?;
                for (i, value) in values.values().iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", Literal(column, value))?;
                }
                f.write_str(")")
            }
            Condition::Between { column, low, high, negated } => {
                let (low, high) = (Literal(column, low), Literal(column, high));
                write!(f, "{column} {}BETWEEN {low} AND {high}", not(negated))
            }
            Condition::Like { column, pattern, negated } => {
                let pattern = Value::Str(pattern.as_str().to_owned());
                write!(f, "{column} {}LIKE {}", not(negated), Literal(column, &pattern))
            }
            Condition::ILike { column, pattern, negated } => {
                let pattern = Value::Str(pattern.as_str().to_owned());
                write!(f, "{column} {}ILIKE {}", not(negated), Literal(column, &pattern))
            }
            Condition::Contains { column, value, negated } => {
                write!(f, "{column} {}CONTAINS {}", not(negated), Literal(column, value))
            }
            Condition::Any { column, op, value } => {
                write!(f, "ANY({column}) {op} {}", Literal(column, value))
            }
            Condition::IsNull { column, negated } => write!(f, "{column} IS {}NULL", not(negated)),
            Condition::IsMissing { column, negated } => write!(f, "{column} IS {}MISSING", not(negated)),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Condition],
    word: &str,
    in_parentheses: impl Fn(&Condition) -> bool,
) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        if in_parentheses(part) { write!(f, "({part})")? } else { write!(f, "{part}")? }
    }
    Ok(())
}

/// A value, formatted so that the parser reads it back beside this column.
struct Literal<'a>(&'a Column, &'a Value);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Literal(column, value) = self;
        let time = match (column.is_time(), value) {
            (true, Value::Int(millis)) => Some((*millis, 0)),
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a time, far below 2^63")]
            (true, Value::Float(millis)) => Some((millis.floor() as i128, 500_000)),
            _ => None,
        };
        if let Some((millis, nanos)) = time {
            let time = UtcTime::from_nanos(millis.saturating_mul(1_000_000).saturating_add(nanos));
            return write!(f, "\"{}\"", time.ok_or(fmt::Error)?);
        }
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        f.write_str(&json::from_msgpack(&encoded).map_err(|_| fmt::Error)?)
    }
}
