//! The packages for Python and Node contain the messages of proto/.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]

use std::fs;
use std::path::Path;

/// The file in each package from which it makes the messages.
const PACKAGED: [&str; 2] = ["proto/python/driftdb/driftdb.v1.bin", "proto/node/driftdb.v1.bin"];

/// `DRIFTDB_BLESS=1 cargo test --test integration packages::` writes the files after a change of proto/.
#[test]
fn the_packages_have_the_messages_of_the_api() {
    for path in PACKAGED {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("DRIFTDB_BLESS").is_some() {
            fs::write(&file, driftdb::FILE_DESCRIPTOR_SET).unwrap();
        }
        let is_current = fs::read(&file).is_ok_and(|found| found == driftdb::FILE_DESCRIPTOR_SET);
        assert!(is_current, "{path} is not what proto/ says: run this test with DRIFTDB_BLESS=1");
    }
}
