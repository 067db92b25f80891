//! The JSON patch (RFC 6902) between two documents, up to a length.
//!
//! A patch repeats the path of a value in each of its operations. Between two documents of a megabyte, a long field name above
//! a long array makes it thousands of times larger than both. So its length is checked before each operation is written, and a
//! patch that would be too long is given up: the reader of a difference has both documents anyway.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The patch that turns `before` into `after`; `None` if it is longer than `limit` bytes.
pub fn json_patch(before: &Value, after: &Value, limit: usize) -> Option<String> {
    let mut patch = PatchWriter { text: "[".to_owned(), pointer: String::new(), limit };
    patch.compare(before, after)?;
    patch.text.push(']');
    (patch.text.len() <= limit).then_some(patch.text)
}

/// A patch in the making. Its functions return `None` once it is too long.
struct PatchWriter {
    text: String,
    /// The JSON pointer of the values that are compared now.
    pointer: String,
    limit: usize,
}

impl PatchWriter {
    fn compare(&mut self, before: &Value, after: &Value) -> Option<()> {
        match (before, after) {
            (Value::Object(before), Value::Object(after)) => self.compare_objects(before, after),
            (Value::Array(before), Value::Array(after)) => self.compare_arrays(before, after),
            _ if before == after => Some(()),
            _ => self.operation("replace", Some(after)),
        }
    }

    fn compare_objects(&mut self, before: &Map<String, Value>, after: &Map<String, Value>) -> Option<()> {
        for (field, value) in after {
            self.within(&escaped(field), |patch| match before.get(field) {
                Some(old) => patch.compare(old, value),
                None => patch.operation("add", Some(value)),
            })?;
        }
        let removed = before.keys().filter(|field| !after.contains_key(*field));
        removed.map(|field| self.within(&escaped(field), |patch| patch.operation("remove", None))).collect()
    }

    fn compare_arrays(&mut self, before: &[Value], after: &[Value]) -> Option<()> {
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            self.within(&index.to_string(), |patch| patch.compare(old, new))?;
        }
        for (index, value) in after.iter().enumerate().skip(before.len()) {
            self.within(&index.to_string(), |patch| patch.operation("add", Some(value)))?;
        }
        // Each removal moves the elements behind it, so all are removed at the same index.
        for _ in after.len()..before.len() {
            self.within(&after.len().to_string(), |patch| patch.operation("remove", None))?;
        }
        Some(())
    }

    /// Runs `step` with `token` added to the pointer.
    fn within(&mut self, token: &str, step: impl FnOnce(&mut PatchWriter) -> Option<()>) -> Option<()> {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(token);
        let done = step(self);
        self.pointer.truncate(length);
        done
    }

    /// Adds an operation on the value at the pointer.
    fn operation(&mut self, name: &str, value: Option<&Value>) -> Option<()> {
        if self.text.len() + self.pointer.len() > self.limit {
            return None;
        }
        if self.text.len() > 1 {
            self.text.push(',');
        }
        let path = serde_json::to_string(&self.pointer).ok()?;
        write!(self.text, r#"{{"op":"{name}","path":{path}"#).ok()?;
        if let Some(value) = value {
            write!(self.text, r#","value":{value}"#).ok()?;
        }
        self.text.push('}');
        (self.text.len() <= self.limit).then_some(())
    }
}

/// A token of a JSON pointer.
fn escaped(field: &str) -> String {
    field.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::json_patch;

    #[test]
    fn a_patch_turns_one_document_into_the_other() {
        let documents = [
            json!({}),
            json!({"a": 1}),
            json!({"a": 1.0, "b": [1, 2, 3]}),
            json!({"a": null, "b": [1, {"x~y/z": [1]}, 3, 4], "": "\"\\\u{1}é"}),
            json!({"b": [1, {"x~y/z": []}], "c": {"d": {"e": true}}}),
            json!({"b": {"0": 1}, "c": {"d": {}}}),
            json!({"b": [[], [[]], "x"], "~1": 0, "a/b": 1, "~": {"/": []}}),
        ];
        for before in &documents {
            for after in &documents {
                let text = json_patch(before, after, usize::MAX).unwrap();
                let patch: ::json_patch::Patch = serde_json::from_str(&text).unwrap();
                assert_eq!(
                    patch,
                    ::json_patch::diff(before, after),
                    "the patches of the crate are the model"
                );
                let mut patched = before.clone();
                ::json_patch::patch(&mut patched, &patch).unwrap();
                assert_eq!(&patched, after, "{text}");
                assert_eq!(json_patch(before, after, text.len()), Some(text.clone()));
                assert_eq!(json_patch(before, after, text.len() - 1), None);
            }
        }
    }

    #[test]
    fn a_patch_that_is_too_long_costs_little() {
        let document = |n: i32| json!({"x".repeat(100_000): vec![n; 150_000]});
        let (start, limit) = (Instant::now(), 1 << 20);
        assert_eq!(json_patch(&document(1), &document(2), limit), None);
        // Written out, the patch has 15 GB.
        assert!(start.elapsed().as_secs() < 10);
    }
}
