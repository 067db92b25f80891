//! A hash of what a request asks for, which tells a retry from a different request with the same id.

use driftdb_common::table::operation::{
    Action, Boundary, Check, CommitRequest, KeyInput, Operation, Precondition, SchemaChange,
};
use driftdb_common::table::point_in_time::PointInTime;
use xxhash_rust::xxh3::Xxh3Default;

/// The XXH3-128 of a change: every part with its kind and its length. The log stores it, so it must never
/// change.
pub(crate) fn compute(change: &CommitRequest) -> [u8; 16] {
    let mut hash = FingerprintHasher(Xxh3Default::new());
    match change {
        CommitRequest::Rows { operations, preconditions, boundaries } => {
            hash.part(b'R', &(operations.len() as u64).to_le_bytes());
            operations.iter().for_each(|operation| hash.operation(operation));
            preconditions.iter().for_each(|precondition| hash.precondition(precondition));
            boundaries.iter().for_each(|boundary| hash.boundary(boundary));
        }
        CommitRequest::Schema(SchemaChange::Create { schema, if_not_exists }) => {
            hash.part(b'C', schema.table.as_bytes());
            hash.part(b'f', &[u8::from(*if_not_exists)]);
            hash.part(b'k', schema.primary_key.as_bytes());
            hash.part(b't', schema.key_type.to_string().as_bytes());
            schema.indexes.iter().for_each(|index| hash.part(b'i', index.as_bytes()));
            // Newer options are hashed only if they are set, so that requests without them keep their
            // fingerprint.
            if let Some(ms) = schema.retain_ms {
                hash.part(b'r', &ms.to_le_bytes());
            }
            if schema.auto_key {
                hash.part(b'a', &[]);
            }
        }
        CommitRequest::Schema(SchemaChange::Alter { table, add, drop, retain }) => {
            hash.part(b'A', table.as_bytes());
            add.iter().for_each(|index| hash.part(b'i', index.as_bytes()));
            drop.iter().for_each(|index| hash.part(b'x', index.as_bytes()));
            match retain {
                Some(Some(ms)) => hash.part(b'r', &ms.to_le_bytes()),
                Some(None) => hash.part(b'r', &[]),
                None => {}
            }
        }
        CommitRequest::Schema(SchemaChange::Rename { table, to }) => {
            hash.part(b'N', table.as_bytes());
            hash.part(b'o', to.as_bytes());
        }
        CommitRequest::Schema(SchemaChange::Drop { table }) => hash.part(b'D', table.as_bytes()),
    }
    hash.0.digest128().to_le_bytes()
}

/// The same of a statement, as it was sent: what it means can depend on when it is read ("30 days ago"), and a retry comes later. Of
/// its options only the time of the commit counts, because the others are notes.
///
/// `commit_time` is in seconds and nanoseconds.
pub(crate) fn of_statement(
    statement: &str,
    params: &[String],
    time_zone: &str,
    commit_time: Option<(i64, i32)>,
) -> [u8; 16] {
    let mut hash = FingerprintHasher(Xxh3Default::new());
    hash.part(b'Q', statement.as_bytes());
    params.iter().for_each(|param| hash.part(b'p', param.as_bytes()));
    hash.part(b'z', time_zone.as_bytes());
    if let Some((seconds, nanos)) = commit_time {
        hash.part(b's', &seconds.to_le_bytes());
        hash.part(b'n', &nanos.to_le_bytes());
    }
    hash.0.digest128().to_le_bytes()
}

/// Hashes the parts of a request.
struct FingerprintHasher(Xxh3Default);

impl FingerprintHasher {
    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.0.update(&[kind]);
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn key(&mut self, key: Option<&KeyInput>) {
        if let Some(key) = key {
            self.part(b'k', key.to_string().as_bytes());
        }
    }

    fn operation(&mut self, operation: &Operation) {
        self.part(b't', operation.table.as_bytes());
        self.key(operation.key.as_ref());
        match &operation.action {
            Action::Insert(document) => self.part(b'I', document.msgpack()),
            Action::Put(document) => self.part(b'P', document.msgpack()),
            Action::Patch(patch) => self.part(b'M', patch.msgpack()),
            Action::SoftDelete => self.part(b'S', &[]),
            Action::Revert(point) => self.revert(*point),
            // A request's fingerprint is computed before its reverts are resolved.
            Action::Restore(_) => {}
        }
    }

    fn revert(&mut self, point: PointInTime) {
        match point {
            PointInTime::Seq(seq) => self.part(b'V', &seq.to_le_bytes()),
            PointInTime::Time(ms) => self.part(b'T', &ms.to_le_bytes()),
            PointInTime::Ago(ago) => self.part(b'O', &ago.as_millis().to_le_bytes()),
            PointInTime::Now => self.part(b'N', &[]),
        }
    }

    fn boundary(&mut self, boundary: &Boundary) {
        self.part(b'b', boundary.table.as_bytes());
        self.part(b'w', boundary.condition.as_bytes());
        self.part(b'u', &boundary.unchanged_since.to_le_bytes());
    }

    fn precondition(&mut self, precondition: &Precondition) {
        self.part(b'c', precondition.table.as_bytes());
        self.key(Some(&precondition.key));
        let (kind, value) = match precondition.check {
            Check::SeqIs(seq) => (b'q', seq),
            Check::Exists(exists) => (b'e', u64::from(exists)),
            Check::UnchangedSince(seq) => (b'u', seq),
        };
        self.part(kind, &value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use driftdb_common::format::document::Document;
    use driftdb_common::format::key::KeyType;
    use driftdb_common::table::schema::Schema;

    use super::*;

    fn insert(key: Option<&str>, json: &str) -> CommitRequest {
        let key = key.map(|key| KeyInput::Text(key.into()));
        let action = Action::Insert(Document::from_json(json).unwrap());
        CommitRequest::Rows {
            operations: vec![Operation { table: "t".into(), key, action }],
            preconditions: Vec::new(),
            boundaries: Vec::new(),
        }
    }

    #[test]
    fn the_fingerprint_of_a_request_never_changes() {
        let change = insert(None, r#"{"id":"a"}"#);
        assert_eq!(compute(&change), compute(&change.clone()));
        assert_ne!(compute(&change), compute(&insert(None, r#"{"id":"b"}"#)));
        assert_ne!(compute(&change), compute(&insert(Some("a"), r#"{"id":"a"}"#)));
        assert_eq!(u128::from_le_bytes(compute(&change)), FROZEN);
    }

    #[test]
    fn the_fingerprint_of_a_statement_is_of_what_was_sent() {
        let params = |params: &[&str]| params.iter().map(|param| (*param).to_owned()).collect::<Vec<_>>();
        let plain = of_statement("a", &[], "", None);
        assert_eq!(u128::from_le_bytes(plain), FROZEN_STATEMENT);
        let hashes = [
            plain,
            of_statement("b", &[], "", None),
            of_statement("a", &params(&["1", "2"]), "", None),
            of_statement("a", &params(&["12"]), "", None),
            of_statement("a", &[], "Europe/Berlin", None),
            of_statement("a", &[], "", Some((1, 0))),
        ];
        assert_eq!(hashes.iter().collect::<std::collections::HashSet<_>>().len(), hashes.len());
    }

    #[test]
    fn retention_changes_the_fingerprint() {
        let create = |retain_ms| {
            let (table, primary_key) = ("t".to_owned(), "id".to_owned());
            let indexes = vec!["a".to_owned()];
            let schema =
                Schema { table, primary_key, key_type: KeyType::Int, indexes, retain_ms, auto_key: false };
            compute(&CommitRequest::Schema(SchemaChange::Create { schema, if_not_exists: false }))
        };
        let alter = |retain| {
            let (table, add) = ("t".to_owned(), vec!["a".to_owned()]);
            compute(&CommitRequest::Schema(SchemaChange::Alter { table, add, drop: Vec::new(), retain }))
        };
        let hashes = [
            create(None),
            create(Some(1000)),
            create(Some(1001)),
            alter(None),
            alter(Some(None)),
            alter(Some(Some(1000))),
            alter(Some(Some(1001))),
        ];
        assert_eq!(hashes.iter().collect::<std::collections::HashSet<_>>().len(), hashes.len());
        assert_eq!(u128::from_le_bytes(create(None)), FROZEN_CREATE);
        assert_eq!(u128::from_le_bytes(alter(None)), FROZEN_ALTER);
    }

    /// The fingerprints of the version before retention existed.
    const FROZEN_CREATE: u128 = 15611190766294960569064401475998795135;
    const FROZEN_ALTER: u128 = 322289165949173634077830101603809685938;
    /// The fingerprint of a statement.
    const FROZEN_STATEMENT: u128 = 331650671015504561274254233413696490804;
    /// The fingerprint of the first version.
    const FROZEN: u128 = 184282382045635354650412948773886212831;
}
