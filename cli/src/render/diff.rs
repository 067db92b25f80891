//! A net change for people: one line for each changed field.

use std::fmt::Write;

use serde_json::value::RawValue;

use super::fields::JsonFields;
use super::style::{Style, visible};
use crate::exit::CliResult;
use crate::shapes::Difference;

/// The lines of the net change of one row, coloured by field.
pub(crate) fn lines(diff: &Difference, style: Style) -> CliResult<String> {
    let before = fields(diff.before.as_deref())?;
    let after = fields(diff.after.as_deref())?;
    let key: String = diff.key.chars().flat_map(visible).collect();
    let mut text = match diff.kind {
        "added" => style.green(&format!("+ {key}")),
        "removed" => style.red(&format!("- {key}")),
        _ => style.yellow(&format!("~ {key}")),
    };
    text.push('\n');
    let new = after.iter().filter(|(name, _)| !before.iter().any(|(n, _)| n == name));
    for (name, _) in before.iter().chain(new) {
        let value = |side: &[(String, Box<RawValue>)]| {
            side.iter().find(|(n, _)| n == name).map(|(_, value)| value.get().to_owned())
        };
        let line = match (value(&before), value(&after)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => {
                format!("{} → {}", style.red(&a), style.green(&b))
            }
            (Some(a), None) => style.red(&a),
            (None, b) => style.green(&b.unwrap_or_default()),
        };
        // Writing to a String cannot fail.
        let name: String = name.chars().flat_map(visible).collect();
        let _ = writeln!(text, "    {name}: {line}");
    }
    Ok(text)
}

fn fields(document: Option<&RawValue>) -> CliResult<Vec<(String, Box<RawValue>)>> {
    document.map_or(Ok(Vec::new()), |document| Ok(JsonFields::parse(document.get())?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(kind: &'static str, before: Option<&str>, after: Option<&str>) -> Difference {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        Difference { key: "o1".into(), kind, before: before.map(raw), after: after.map(raw) }
    }

    #[test]
    fn each_changed_field_has_a_line() {
        let changed =
            diff("changed", Some(r#"{"a":1,"b":"x","c":[1]}"#), Some(r#"{"a":1,"b":"y","d":null}"#));
        let expected = "~ o1\n    b: \"x\" → \"y\"\n    c: [1]\n    d: null\n";
        assert_eq!(lines(&changed, Style::PLAIN).unwrap(), expected);
        let added = diff("added", None, Some(r#"{"a":1}"#));
        assert_eq!(lines(&added, Style::COLOUR).unwrap(), "\x1b[32m+ o1\x1b[0m\n    a: \x1b[32m1\x1b[0m\n");
        let removed = diff("removed", Some(r#"{"a":1}"#), None);
        assert_eq!(lines(&removed, Style::PLAIN).unwrap(), "- o1\n    a: 1\n");
    }
}
