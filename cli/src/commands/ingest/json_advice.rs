//! Advice about JSON that other programs write: numbers that JSON does not have, and rows inside of one object.

use driftdb_common::error::{Error, Reason};
use serde_json::Value;

/// What some programs write for numbers that JSON does not have.
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The error of a record that is not a row, with advice if its text tells what is wrong. `is_first` says whether the file begins with it.
pub(super) fn explained(error: Error, text: &str, is_first: bool) -> Error {
    let message = error.message();
    let advice = if is_first && message.contains("EOF while parsing") {
        // Its first line alone says nothing of the others.
        "the file looks like one JSON object over several lines, and not like one object per line or an array of them; take its rows out, for example with `jq -c '.features[]' FILE`, or with `jq -c '.[]' FILE` if each of its fields is a row".to_owned()
    } else if let Some(field) = inner_rows(text).filter(|_| is_first && error.reason() == Reason::TooLarge) {
        taken_out(&field)
    } else if let Some(word) = foreign_number(text).filter(|_| error.reason() == Reason::DocumentInvalid) {
        format!("{word} is not JSON: let the program that writes the file write null")
    } else {
        return error;
    };
    Error::new(error.reason(), format!("{message}: {advice}"))
}

/// A note about a file that is a single row, whose field has what are probably the rows.
pub(super) fn note_of_only_row(text: &str) -> Option<String> {
    inner_rows(text).map(|field| {
        format!("the file is a single JSON object, which is loaded as one row; {}", taken_out(&field))
    })
}

fn taken_out(field: &str) -> String {
    format!("if its rows are in {field:?}, take them out, for example with `jq -c '.{field}[]' FILE`")
}

/// The first field of an object that has several objects in an array.
fn inner_rows(text: &str) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return None };
    let are_rows = |value: &Value| {
        value.as_array().is_some_and(|items| items.len() > 1 && items.iter().all(Value::is_object))
    };
    fields.into_iter().find(|(_, value)| are_rows(value)).map(|(name, _)| name)
}

/// A number outside of strings that JSON does not have.
fn foreign_number(text: &str) -> Option<&'static str> {
    let (mut in_string, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else if byte == b'"' {
            in_string = true;
        } else {
            let rest = text.as_bytes().get(at..).unwrap_or_default();
            let found = NOT_JSON.into_iter().find(|word| rest.starts_with(word.as_bytes()));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_programs_are_found_outside_of_strings() {
        for (text, expected) in [
            (r#"{"a": NaN}"#, Some("NaN")),
            (r#"{"a": "x \" NaN", "b": -Infinity}"#, Some("-Infinity")),
            (r#"{"a": "Infinity", "NaN": 1}"#, None),
            ("{\"\u{e9}\": [1, Infinity]}", Some("Infinity")),
        ] {
            assert_eq!(foreign_number(text), expected, "{text}");
        }
    }

    #[test]
    fn an_object_that_has_the_rows_inside_is_noticed() {
        let note = note_of_only_row(r#"{"type": "x", "features": [{"a": 1}, {"a": 2}]}"#).unwrap();
        assert!(note.contains("one row") && note.contains("jq -c '.features[]' FILE"), "{note}");
        for text in [r#"{"tags": ["a", "b"]}"#, r#"{"one": [{}]}"#, "[{}, {}]", "{"] {
            assert_eq!(note_of_only_row(text), None, "{text}");
        }
    }

    #[test]
    fn an_error_is_explained_if_its_text_tells_the_cause() {
        let error = |reason, message: &str| Error::new(reason, message);
        let invalid = error(Reason::DocumentInvalid, "expected value at line 1 column 7");
        let found = explained(invalid.clone(), r#"{"a": NaN}"#, false);
        assert_eq!(
            found.message(),
            "expected value at line 1 column 7: NaN is not JSON: let the program that writes the file write null"
        );
        let found = explained(invalid, r#"{"a": x}"#, true);
        assert_eq!(found.message(), "expected value at line 1 column 7");
        let large = error(Reason::TooLarge, "the document is too large");
        let found = explained(large, r#"{"data": [{}, {}]}"#, true);
        assert!(found.message().contains("jq -c '.data[]' FILE"), "{found}");
    }
}
