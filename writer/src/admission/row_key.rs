//! The key of the row that an operation changes.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::table::operation::{Action, Operation};
use driftdb_common::table::schema::Schema;

/// The key of the row that an operation changes. An insert's or put's key comes from its document.
pub(super) fn row_key(schema: &Schema, operation: &Operation) -> Result<Key> {
    let given = operation.key.as_ref().map(|key| key.of_table(schema)).transpose()?;
    match (&operation.action, given) {
        (Action::Insert(document) | Action::Put(document), given) => {
            let key = schema.key_of(document)?;
            if let Some(given) = given.filter(|given| *given != key) {
                let message = format!(
                    "the key of the operation, {}, differs from the key in its document, {}; leave out the operation's key",
                    given.quoted(),
                    key.quoted()
                );
                return Err(Error::new(Reason::KeyInvalid, message));
            }
            Ok(key)
        }
        (_, Some(given)) => Ok(given),
        (_, None) => {
            let message = format!(
                "the operation on table {:?} has no key; a patch and a soft delete need one",
                schema.table
            );
            Err(Error::new(Reason::KeyInvalid, message))
        }
    }
}
