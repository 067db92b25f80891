//! A table's schema, and the SCHEMA events that create, change and drop a table.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result, nearest};
use crate::format::document::Document;
use crate::format::index_columns::IndexColumns;
use crate::format::key::{Key, KeyType};
use crate::format::key_columns::{CompositeKey, KeyPart};
use crate::format::msgpack;
use crate::format::path::Path;
use crate::limits;
use crate::storage::layout::is_table_name;

mod unknown_feature;

/// A table's name, primary key, indexes and retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The table's name.
    pub table: String,
    /// The field with the primary key, at the top level of every document. Of a composite key, the fields as `(a, b)`.
    pub primary_key: String,
    /// The primary key's type.
    pub key_type: KeyType,
    /// The names of the secondary indexes: a dotted path, or the paths of a composite index as [`IndexColumns`] writes them.
    #[serde(with = "index_names")]
    pub indexes: Vec<String>,
    /// The retention: how long history is kept at least, in milliseconds. `None` keeps it forever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_ms: Option<u64>,
    /// Whether the writer makes a key, a UUID of version 7, for an insert whose document has none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_key: bool,
}

/// The names of indexes in a SCHEMA event: a text is one path, an array has the paths of a composite index.
mod index_names {
    use serde::ser::SerializeSeq;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::format::index_columns::{IndexColumns, name_of_path};
    use crate::format::path::Path;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum StoredIndex {
        Path(String),
        Composite(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(names: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(names.len()))?;
        for name in names {
            let columns = IndexColumns::of(name);
            if columns.is_composite() {
                let paths: Vec<String> = columns.paths().iter().map(ToString::to_string).collect();
                list.serialize_element(&paths)?;
            } else {
                list.serialize_element(name)?;
            }
        }
        list.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        let stored = Vec::<StoredIndex>::deserialize(deserializer)?;
        Ok(stored
            .into_iter()
            .map(|index| match index {
                StoredIndex::Path(text) => name_of_path(&text),
                StoredIndex::Composite(paths) => {
                    IndexColumns::new(paths.iter().map(|path| Path::of_index(path)).collect()).to_string()
                }
            })
            .collect())
    }
}

/// What a SCHEMA event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaAction {
    /// The table was created, without rows.
    Create,
    /// The table's indexes or its retention changed. Its rows stay.
    Alter,
    /// The table was dropped. Its rows are gone; their history stays.
    Drop,
    /// The table got another name. Its rows stay.
    Rename,
}

impl SchemaAction {
    /// Whether the table has no rows after it.
    pub fn removes_rows(self) -> bool {
        matches!(self, SchemaAction::Create | SchemaAction::Drop)
    }
}

/// A SCHEMA event's content: the action, and the schema after it. A DROP repeats the schema before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaEvent {
    /// The action.
    pub action: SchemaAction,
    /// The schema after the event.
    #[serde(flatten)]
    pub schema: Schema,
    /// The table's name before a RENAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl SchemaEvent {
    /// An event that is no RENAME.
    pub fn new(action: SchemaAction, schema: Schema) -> SchemaEvent {
        SchemaEvent { action, schema, from: None }
    }

    /// The event that gives a table another name.
    pub fn rename(schema: &Schema, name: &str) -> SchemaEvent {
        let renamed = Schema { table: name.to_owned(), ..schema.clone() };
        SchemaEvent { action: SchemaAction::Rename, schema: renamed, from: Some(schema.table.clone()) }
    }

    /// Encodes the event as the document that frames contain.
    pub fn to_document(&self) -> Result<Document> {
        let encoded = rmp_serde::to_vec_named(self)
            .map_err(|e| Error::new(Reason::Internal, format!("cannot encode a schema: {e}")))?;
        Document::from_msgpack(encoded.into())
    }

    /// Decodes the event from the document that frames contain. Fails with NOT_SUPPORTED if a newer version wrote it and this one
    /// does not know what it means, with CORRUPT if the document is no SCHEMA event.
    pub fn from_document(document: &Document) -> Result<SchemaEvent> {
        unknown_feature::check(document)?;
        let corrupt =
            |why: String| Error::new(Reason::Corrupt, format!("cannot decode a SCHEMA event: {why}"));
        let event: SchemaEvent =
            rmp_serde::from_slice(document.msgpack()).map_err(|e| corrupt(e.to_string()))?;
        match (event.action, &event.from) {
            (SchemaAction::Rename, None) => Err(corrupt("a rename has no earlier name".to_owned())),
            _ => Ok(event),
        }
    }
}

impl Schema {
    /// Whether the rows of a table with another schema have keys of the same kind.
    pub fn has_key_of(&self, other: &Schema) -> bool {
        (&self.primary_key, self.key_type) == (&other.primary_key, other.key_type)
    }

    /// Checks a schema that a client asks for. Fails with NAME_INVALID, TOO_LARGE or ARGUMENT_INVALID.
    pub fn check(&self) -> Result<()> {
        check_table_name(&self.table)?;
        if self.primary_key.is_empty() || self.primary_key.len() > limits::KEY_BYTES {
            let message = format!(
                "invalid primary key of table {:?}: a field name has 1 to {} bytes, got {}",
                self.table,
                limits::KEY_BYTES,
                self.primary_key.len()
            );
            return Err(Error::new(Reason::NameInvalid, message));
        }
        self.check_key_columns()?;
        if self.auto_key && self.key_type != KeyType::String {
            let message = format!(
                "the keys of table {:?} cannot be AUTO: they are {}, and the keys that the writer makes are text; use one STRING field",
                self.table, self.key_type
            );
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if self.indexes.len() > limits::INDEXES_PER_TABLE {
            let message = format!(
                "too many indexes on table {:?}: {}, the limit is {}",
                self.table,
                self.indexes.len(),
                limits::INDEXES_PER_TABLE
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        if let Some(ms) = self.retain_ms.filter(|ms| *ms < limits::RETAIN_LEAST_SECS * 1000) {
            let message = format!(
                "invalid retention of table {:?}: {ms} ms, the minimum is {} s",
                self.table,
                limits::RETAIN_LEAST_SECS
            );
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        self.check_indexes()
    }

    fn check_key_columns(&self) -> Result<()> {
        let KeyType::Composite(types) = self.key_type else { return Ok(()) };
        let fields = self.key_fields();
        let invalid = |why: String| {
            let message =
                format!("invalid primary key {} of table {:?}: {why}", self.primary_key, self.table);
            Err(Error::new(Reason::NameInvalid, message))
        };
        if fields.len() != types.count() {
            return invalid(format!("it names {} fields, and has {} types", fields.len(), types.count()));
        }
        for (at, field) in fields.iter().enumerate() {
            if field.is_empty() {
                return invalid("a field has no name".to_owned());
            }
            if fields.iter().take(at).any(|earlier| earlier == field) {
                return invalid(format!("it names {field:?} twice"));
            }
        }
        Ok(())
    }

    /// The fields of the primary key, in order: one, unless it is composite.
    pub fn key_fields(&self) -> Vec<String> {
        if !matches!(self.key_type, KeyType::Composite(_)) {
            return vec![self.primary_key.clone()];
        }
        let columns = IndexColumns::of(&self.primary_key);
        columns.paths().iter().filter_map(|path| path.names().first().cloned()).collect()
    }

    /// The primary key that some fields make.
    pub fn primary_key_of(fields: &[String]) -> String {
        match fields {
            [field] => field.clone(),
            fields => IndexColumns::new(fields.iter().map(|field| Path::field(field)).collect()).to_string(),
        }
    }

    /// The key of a document. Fails with KEY_INVALID if a field of the key is missing or has another type.
    pub fn key_of(&self, document: &Document) -> Result<Key> {
        let KeyType::Composite(types) = self.key_type else {
            return document.key(&self.primary_key, self.key_type);
        };
        let columns = types.are_ints().zip(self.key_fields());
        let part = |(is_int, field): (bool, String)| {
            document.key(&field, KeyType::of_column(is_int)).map(Key::into_part).transpose()
        };
        CompositeKey::checked(columns.filter_map(part).collect::<Result<_>>()?).map(Key::of_columns)
    }

    /// The key that a request names as text: as [`Key::parse`], and a composite one also as a JSON object with its fields.
    pub fn key_of_text(&self, text: &str) -> Result<Key> {
        if !matches!(self.key_type, KeyType::Composite(_)) || !text.trim_start().starts_with('{') {
            return Key::parse(text, self.key_type);
        }
        let invalid = |why: &str| Error::new(Reason::KeyInvalid, format!("invalid key {text:?}: {why}"));
        let document = Document::from_json(text).map_err(|error| invalid(error.message()))?;
        let mut columns = Vec::new();
        for (name, value) in msgpack::fields(document.msgpack())? {
            let part = Key::decode(&mut msgpack::MsgpackReader::new(value)).ok().and_then(Key::into_part);
            let part = part.ok_or_else(|| invalid(&format!("{name:?} is neither text nor an integer")))?;
            columns.push((name.to_owned(), part));
        }
        self.key_of_columns(&columns).map_err(|error| invalid(error.message()))
    }

    /// The composite key with these columns, which may be in any order. Fails with KEY_INVALID unless they are the columns of the
    /// primary key, with values of its types.
    pub fn key_of_columns(&self, columns: &[(String, KeyPart)]) -> Result<Key> {
        let fields = self.key_fields();
        let invalid = |why: String| {
            let message = format!("the primary key of table {:?} is {}{why}", self.table, self.primary_key);
            Err(Error::new(Reason::KeyInvalid, message))
        };
        for (name, _) in columns {
            if !fields.iter().any(|field| field == name) {
                let near = nearest(name, fields.iter().map(String::as_str));
                let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                return invalid(format!(", which has no field {name:?}{hint}"));
            }
        }
        let mut parts = Vec::with_capacity(fields.len());
        for (field, of) in fields.iter().zip(self.key_type.columns()) {
            let Some((_, part)) = columns.iter().find(|(name, _)| name == field) else {
                return invalid(format!(", and the key lacks {field:?}"));
            };
            if matches!(part, KeyPart::Int(_)) != (of == KeyType::Int) {
                return invalid(format!(", and {field:?} is {of}, but {part} is not"));
            }
            parts.push(part.clone());
        }
        CompositeKey::checked(parts).map(Key::of_columns)
    }

    fn check_indexes(&self) -> Result<()> {
        for (i, index) in self.indexes.iter().enumerate() {
            if index.is_empty() || index.len() > limits::KEY_BYTES {
                let message = format!(
                    "invalid index on table {:?}: a path has 1 to {} bytes, got {}",
                    self.table,
                    limits::KEY_BYTES,
                    index.len()
                );
                return Err(Error::new(Reason::NameInvalid, message));
            }
            let columns = IndexColumns::of(index);
            if columns.paths().len() > limits::INDEX_COLUMNS {
                let message = format!(
                    "too many columns in index {index} of table {:?}: {}, the limit is {}",
                    self.table,
                    columns.paths().len(),
                    limits::INDEX_COLUMNS
                );
                return Err(Error::new(Reason::TooLarge, message));
            }
            if columns
                .paths()
                .iter()
                .enumerate()
                .any(|(at, path)| columns.paths().iter().take(at).any(|p| p == path))
            {
                let message = format!("index {index} of table {:?} names a column twice", self.table);
                return Err(Error::new(Reason::NameInvalid, message));
            }
            if self.indexes.iter().take(i).any(|earlier| earlier == index) {
                let message = format!("index {index:?} of table {:?} is listed twice", self.table);
                return Err(Error::new(Reason::NameInvalid, message));
            }
        }
        Ok(())
    }

    /// Returns the schema with some indexes added, some dropped, and the retention changed: `Some(None)` keeps history
    /// forever, `None` does not change the retention. Fails with ARGUMENT_INVALID if nothing is specified, if an index to
    /// add exists, or if an index to drop does not exist.
    pub fn altered(&self, add: &[String], drop: &[String], retain: Option<Option<u64>>) -> Result<Schema> {
        let refused = |why: String| {
            let message = format!("cannot alter table {:?}: {why}", self.table);
            Err(Error::new(Reason::ArgumentInvalid, message))
        };
        if add.is_empty() && drop.is_empty() && retain.is_none() {
            return refused(
                "ALTER TABLE specifies no change; name an index to add or drop, or a retention".to_owned(),
            );
        }
        if add.len() > limits::INDEXES_PER_TABLE || drop.len() > limits::INDEXES_PER_TABLE {
            let message = format!(
                "cannot alter table {:?}: {} indexes to add and {} to drop, the limit is {} each",
                self.table,
                add.len(),
                drop.len(),
                limits::INDEXES_PER_TABLE
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        let mut altered = self.clone();
        altered.retain_ms = retain.unwrap_or(self.retain_ms);
        for index in drop {
            match altered.indexes.iter().position(|existing| existing == index) {
                Some(position) => _ = altered.indexes.remove(position),
                None => {
                    let near = nearest(index, self.indexes.iter().map(String::as_str));
                    let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                    return refused(format!("it has no index {index:?}{hint}"));
                }
            }
        }
        for index in add {
            if altered.indexes.contains(index) {
                return refused(format!("it already has an index {index:?}"));
            }
            altered.indexes.push(index.clone());
        }
        altered.check()?;
        Ok(altered)
    }

    /// Returns the schema as YAML, for people to read. Text is quoted as in JSON, which is valid YAML.
    pub fn to_yaml(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut yaml = format!(
            "# For people. The truth is in the log.\ntable: {}\nprimary_key: {}\nkey_type: {}\nindexes:",
            self.table,
            quoted(&self.primary_key),
            self.key_type
        );
        if self.indexes.is_empty() {
            yaml.push_str(" []");
        }
        for index in &self.indexes {
            yaml.push_str("\n  - ");
            yaml.push_str(&quoted(index));
        }
        yaml.push('\n');
        if self.auto_key {
            yaml.push_str("auto_key: true\n");
        }
        if let Some(ms) = self.retain_ms {
            yaml.push_str(&format!("retain: {}\n", format_retain(ms)));
        }
        yaml
    }
}

/// Formats a retention as RETAIN in DriftQL takes it: `90d`. A fraction of a second, which RETAIN does not take, is formatted
/// as a decimal: `1.500s`.
pub fn format_retain(ms: u64) -> String {
    let (seconds, millis) = (ms / 1000, ms % 1000);
    if millis > 0 {
        return format!("{seconds}.{millis:03}s");
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60)];
    let unit = units.into_iter().find(|(_, length)| seconds > 0 && seconds % length == 0);
    let (unit, length) = unit.unwrap_or(("s", 1));
    format!("{}{unit}", seconds / length)
}

/// Checks a table's name. Fails with NAME_INVALID.
pub fn check_table_name(name: &str) -> Result<()> {
    if is_table_name(name) {
        return Ok(());
    }
    let message = format!(
        "invalid table name {name:?}: a name has 1 to {} letters, digits and underscores, and does not begin with a digit",
        limits::TABLE_NAME_BYTES
    );
    Err(Error::new(Reason::NameInvalid, message).with("table", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_event_is_decoded_as_it_was_encoded() {
        let schema = Schema {
            table: "orders".into(),
            primary_key: "id".into(),
            key_type: KeyType::Int,
            indexes: vec!["status".into(), "a.b".into()],
            retain_ms: None,
            auto_key: false,
        };
        let mut event = SchemaEvent::new(SchemaAction::Create, schema);
        let document = event.to_document().unwrap();
        assert_eq!(
            document.to_json().unwrap(),
            r#"{"action":"create","table":"orders","primary_key":"id","key_type":"INT","indexes":["status","a.b"]}"#
        );
        assert_eq!(SchemaEvent::from_document(&document).unwrap(), event);

        let renamed = SchemaEvent::rename(&event.schema, "sales");
        let document = renamed.to_document().unwrap();
        assert_eq!(
            document.to_json().unwrap(),
            r#"{"action":"rename","table":"sales","primary_key":"id","key_type":"INT","indexes":["status","a.b"],"from":"orders"}"#
        );
        assert_eq!(SchemaEvent::from_document(&document).unwrap(), renamed);
        let nameless = document.to_json().unwrap().replace(r#","from":"orders""#, "");
        let error = SchemaEvent::from_document(&Document::from_json(&nameless).unwrap()).unwrap_err();
        assert_eq!(error.reason(), Reason::Corrupt);

        event.schema.retain_ms = Some(86_400_000);
        let document = event.to_document().unwrap();
        assert!(document.to_json().unwrap().ends_with(r#""indexes":["status","a.b"],"retain_ms":86400000}"#));
        assert_eq!(SchemaEvent::from_document(&document).unwrap(), event);

        event.schema = Schema { key_type: KeyType::String, auto_key: true, ..event.schema };
        let document = event.to_document().unwrap();
        assert!(document.to_json().unwrap().ends_with(r#""retain_ms":86400000,"auto_key":true}"#));
        assert_eq!(SchemaEvent::from_document(&document).unwrap(), event);
        assert!(event.schema.check().is_ok() && event.schema.to_yaml().contains("auto_key: true\n"));
        event.schema.key_type = KeyType::Int;
        assert_eq!(event.schema.check().unwrap_err().reason(), Reason::ArgumentInvalid);
    }

    #[test]
    fn a_composite_key_has_a_name_and_is_found_in_documents() {
        let fields = ["a", "b.c", "d, e"].map(str::to_owned);
        let schema = Schema {
            table: "t".into(),
            primary_key: Schema::primary_key_of(&fields),
            key_type: "(STRING, INT, STRING)".parse().unwrap(),
            indexes: Vec::new(),
            retain_ms: None,
            auto_key: false,
        };
        schema.check().unwrap();
        assert_eq!(schema.key_fields(), fields);
        let event = SchemaEvent { action: SchemaAction::Create, schema, from: None };
        let document = event.to_document().unwrap();
        assert_eq!(
            document.to_json().unwrap(),
            r#"{"action":"create","table":"t","primary_key":"(a, `b.c`, `d, e`)","key_type":"(STRING, INT, STRING)","indexes":[]}"#
        );
        assert_eq!(SchemaEvent::from_document(&document).unwrap(), event);
        let schema = event.schema;
        let key_of = |json: &str| schema.key_of(&Document::from_json(json).unwrap());
        let key = key_of(r#"{"x":1,"d, e":"z","b.c":-7,"a":"y"}"#).unwrap();
        assert_eq!(key.to_string(), r#"["y",-7,"z"]"#);
        for text in [r#"["y",-7,"z"]"#, r#" {"b.c":-7,"a":"y","d, e":"z"}"#] {
            assert_eq!(schema.key_of_text(text).unwrap(), key);
        }
        for (json, expected) in [
            (r#"{"a":"y","b.c":1}"#, "lacks the primary key field \"d, e\" (STRING)"),
            (r#"{"a":"y","b.c":"1","d, e":"z"}"#, "\"b.c\" must be INT, but is a string"),
            (r#"{"a":"","b.c":1,"d, e":"z"}"#, "empty"),
        ] {
            let error = key_of(json).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
        }
        let error = schema.key_of_text(r#"{"a":"y","b.c":1,"d,e":"z"}"#).unwrap_err();
        assert!(error.message().contains("which has no field \"d,e\"; did you mean \"d, e\"?"), "{error}");
        let error = schema.key_of_text(r#"{"a":"y","b.c":1}"#).unwrap_err();
        assert!(error.message().contains("and the key lacks \"d, e\""), "{error}");
        let error = schema.key_of_text(r#"{"a":"y","b.c":"1","d, e":"z"}"#).unwrap_err();
        assert!(error.message().contains("\"b.c\" is INT, but \"1\" is not"), "{error}");
        let twice = Schema { primary_key: "(a, a, b)".into(), ..schema.clone() };
        assert_eq!(twice.check().unwrap_err().reason(), Reason::NameInvalid);
        let short = Schema { primary_key: "(a, b)".into(), ..schema };
        assert_eq!(short.check().unwrap_err().reason(), Reason::NameInvalid);
    }

    #[test]
    fn retention_can_be_altered_alone_and_has_a_minimum() {
        let kept = |retain_ms| Schema {
            table: "t".into(),
            primary_key: "id".into(),
            key_type: KeyType::String,
            indexes: vec!["a".into()],
            retain_ms,
            auto_key: false,
        };
        let all = kept(None);
        assert_eq!(all.altered(&[], &[], Some(Some(1000))).unwrap(), kept(Some(1000)));
        assert_eq!(kept(Some(1000)).altered(&[], &[], Some(None)).unwrap(), all);
        let index_only = kept(Some(1000)).altered(&["b".into()], &[], None).unwrap();
        assert_eq!(index_only.retain_ms, Some(1000));
        assert!(all.altered(&[], &[], Some(Some(999))).is_err());
        assert!(all.altered(&[], &[], None).is_err());
        assert!(!all.to_yaml().contains("retain"));
        assert!(kept(Some(5_400_000)).to_yaml().ends_with("\n  - \"a\"\nretain: 90m\n"));
    }

    #[test]
    fn retention_is_formatted_in_its_largest_whole_unit() {
        for (ms, text) in [
            (7_776_000_000, "90d"),
            (1_209_600_000, "14d"),
            (7_200_000, "2h"),
            (5_400_000, "90m"),
            (1000, "1s"),
            (1500, "1.500s"),
            (0, "0s"),
        ] {
            assert_eq!(format_retain(ms), text);
        }
    }
}
