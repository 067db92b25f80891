//! The fields of a JSON object, in their order and with their values unchanged.

use std::fmt;

use driftdb_common::error::{Error, Reason};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::exit::CliResult;

/// The fields of a JSON object in their order, with their values as JSON text.
pub(crate) struct JsonFields(pub(crate) Vec<(String, Box<RawValue>)>);

impl JsonFields {
    /// Parses a JSON object.
    pub(crate) fn parse(json: &str) -> CliResult<JsonFields> {
        let wrong = |e| Error::new(Reason::Internal, format!("a result is not a JSON object: {e}"));
        Ok(serde_json::from_str(json).map_err(wrong)?)
    }
}

impl<'de> Deserialize<'de> for JsonFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonFields, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = JsonFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(JsonFields(fields))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The text of a cell: strings without quotes, other values as JSON.
pub(super) fn cell_text(value: &RawValue) -> String {
    let raw = value.get();
    if raw.starts_with('"') {
        return serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned());
    }
    raw.to_owned()
}
