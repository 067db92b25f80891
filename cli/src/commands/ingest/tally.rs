//! What became of every row: a load that ends without an error has loaded or set aside each of them.

use driftdb_common::error::{Error, Reason, Result};

/// The rows of a load, counted where they are read and again where their outcome is known.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Rows and invalid lines that were read.
    pub(crate) read: u64,
    /// Those that an earlier run has loaded or set aside.
    pub(crate) earlier: u64,
    /// Rows that this run has loaded.
    pub(crate) loaded: u64,
    /// Rows and lines that this run has set aside.
    pub(crate) set_aside: u64,
    /// Rows and lines that were refused, and are not set aside.
    pub(crate) refused: u64,
}

impl Tally {
    /// Checks that a load which ends is complete. `records` is the number of records in the file, counted by the parser.
    pub(crate) fn check_complete(&self, records: u64) -> Result<()> {
        let Tally { read, earlier, loaded, set_aside, refused } = *self;
        if read == records && read == earlier + loaded + set_aside && refused == 0 {
            return Ok(());
        }
        let message = format!(
            "the rows do not add up: the file has {records}, of which {read} were read, {earlier} were loaded by an earlier run, {loaded} were loaded, {set_aside} set aside and {refused} refused; compare the table with the file, and please report this"
        );
        Err(Error::new(Reason::Internal, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_an_outcome_is_an_error() {
        let tally = Tally { read: 10, earlier: 4, loaded: 5, set_aside: 1, refused: 0 };
        tally.check_complete(10).unwrap();
        assert!(tally.check_complete(11).is_err());
        assert!(Tally { loaded: 4, ..tally }.check_complete(10).is_err());
        assert!(
            Tally {
                loaded: 4,
                refused: 1,
                ..Tally { read: 10, earlier: 4, set_aside: 1, ..Tally::default() }
            }
            .check_complete(10)
            .is_err()
        );
    }
}
