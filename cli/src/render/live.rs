//! Changes for people: one line for each change, and the row before and after it if requested.

use serde_json::value::RawValue;

use super::diff;
use super::style::{Style, visible};
use crate::exit::CliResult;
use crate::shapes::{Difference, EventJson};

/// The maximum length of a document, in characters; longer documents are cut.
const DOCUMENT: usize = 100;

/// The lines of a change.
pub(crate) fn event(event: &EventJson, style: Style) -> CliResult<String> {
    let kind = format!("{:<11}", event.kind);
    let kind = match event.kind {
        "insert" => style.green(&kind),
        "patch" | "replace" | "revert" => style.yellow(&kind),
        "soft_delete" => style.red(&kind),
        _ => style.bold(&kind),
    };
    let slash = if event.key.is_empty() { "" } else { "/" };
    let row = style.bold(&shown(&format!("{}{slash}{}", event.table, event.key)));
    let mut line = format!("{} {:>8}  {kind} {row}", style.dim(&event.time), event.seq);
    let images = (event.before.is_some(), event.after.is_some());
    if let Some(payload) = event.payload.as_deref().filter(|_| images != (true, true)) {
        line += &format!("  {}", cut(payload));
    }
    let by = [&event.actor, &event.reason].map(|text| shown(text));
    let by: Vec<_> = by.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    if !by.is_empty() {
        line += &style.dim(&format!("  ({})", by.join(": ")));
    }
    line.push('\n');
    match (&event.before, &event.after) {
        (Some(before), Some(after)) => {
            let key = event.key.clone();
            let difference = Difference { key, kind: "", before: before.clone(), after: after.clone() };
            let fields = diff::lines(&difference, style)?;
            line.extend(fields.split_inclusive('\n').skip(1));
        }
        (Some(image), None) => line += &format!("    before: {}\n", whole(image.as_deref())),
        (None, Some(image)) => line += &format!("    after: {}\n", whole(image.as_deref())),
        (None, None) => {}
    }
    Ok(line)
}

/// The line of a record that is not a change.
pub(crate) fn aside(json: &str, style: Style) -> String {
    style.dim(&shown(json)) + "\n"
}

fn whole(document: Option<&RawValue>) -> String {
    document.map_or("none".to_owned(), |document| shown(document.get()))
}

fn cut(document: &RawValue) -> String {
    let text = document.get();
    match text.char_indices().nth(DOCUMENT) {
        Some((at, _)) => shown(text.get(..at).unwrap_or(text)) + "…",
        None => shown(text),
    }
}

fn shown(text: &str) -> String {
    text.chars().flat_map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Option<Box<RawValue>> {
        Some(RawValue::from_string(text.to_owned()).unwrap())
    }

    fn patched() -> EventJson {
        EventJson {
            seq: 7,
            time: "2026-01-01T00:00:00.000Z".into(),
            table: "orders".into(),
            key: "o1\n".into(),
            kind: "patch",
            payload: raw(r#"{"b":2}"#),
            actor: String::new(),
            principal: String::new(),
            reason: "why".into(),
            before: None,
            after: None,
        }
    }

    #[test]
    fn each_change_has_a_line() {
        let line = |change: &EventJson| event(change, Style::PLAIN).unwrap();
        let head = "2026-01-01T00:00:00.000Z        7  patch       orders/o1\\n";
        assert_eq!(line(&patched()), format!("{head}  {{\"b\":2}}  (why)\n"));
        let after = Some(raw(r#"{"a":1,"b":2}"#));
        let printed = line(&EventJson { after: after.clone(), ..patched() });
        assert_eq!(printed, format!("{head}  {{\"b\":2}}  (why)\n    after: {{\"a\":1,\"b\":2}}\n"));
        let before = Some(raw(r#"{"a":1,"b":1}"#));
        assert_eq!(line(&EventJson { before, after, ..patched() }), format!("{head}  (why)\n    b: 1 → 2\n"));
        let long = EventJson { payload: raw(&format!("{{\"a\":\"{}\"}}", "é".repeat(200))), ..patched() };
        assert!(line(&long).contains(&format!("{}…", "é".repeat(94))));
        let coloured = event(&patched(), Style::COLOUR).unwrap();
        assert!(coloured.contains("\x1b[33mpatch "), "{coloured}");
    }
}
