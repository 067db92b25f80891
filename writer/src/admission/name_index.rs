//! Which tables have which names: by the name of each, or its last one if it was dropped.

use std::collections::HashMap;

/// Table ids by name. A name belongs to one table that exists, at most, and to any number that were dropped.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    /// The tables that are not dropped.
    live: HashMap<String, u64>,
    /// All tables, by their names in lower case: two tables must not differ in case only.
    by_lower_case: HashMap<String, Vec<u64>>,
}

impl NameIndex {
    /// The table that exists under a name.
    pub(super) fn live(&self, name: &str) -> Option<u64> {
        self.live.get(name).copied()
    }

    /// All tables with a name in any case, dropped ones included, in no order.
    pub(super) fn in_any_case(&self, name: &str) -> &[u64] {
        self.by_lower_case.get(&name.to_ascii_lowercase()).map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds a table.
    pub(super) fn add(&mut self, name: &str, id: u64, is_live: bool) {
        if is_live {
            self.live.insert(name.to_owned(), id);
        }
        self.by_lower_case.entry(name.to_ascii_lowercase()).or_default().push(id);
    }

    /// Removes a table that was added.
    pub(super) fn remove(&mut self, name: &str, id: u64) {
        if self.live.get(name) == Some(&id) {
            self.live.remove(name);
        }
        let lower_case = name.to_ascii_lowercase();
        if let Some(ids) = self.by_lower_case.get_mut(&lower_case) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_lower_case.remove(&lower_case);
            }
        }
    }
}
