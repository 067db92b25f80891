//! `clone`: begins a new database in a bucket as another one was at a point in time.

use driftdb_common::bucket::fencing;
use driftdb_common::bucket::restore::RestoreRequest;
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason};

use crate::args::{CloneArgs, GlobalArgs};
use crate::commands::backup::bucket_work::{on_thread, scratch_directory};
use crate::commands::backup::shipment::ship;
use crate::commands::restore::point::parse_bound;
use crate::commands::restore::restore_to;
use crate::exit::CliResult;
use crate::render::Printer;

/// Restores the point into a temporary directory with a new id, and ships that.
pub(crate) async fn run(args: CloneArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let point = parse_bound(args.at.as_deref(), global)?;
    let CloneArgs { source, target, at } = args;
    let url = target.clone();
    let scratch = on_thread("cloning", move || {
        // Before anything is copied.
        if fencing::find_ends(&BucketStore::open(&url)?)?.is_some() {
            let message =
                format!("cannot clone to {url}: the bucket has a database; name another bucket or prefix");
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let scratch = scratch_directory()?;
        let request = RestoreRequest { is_clone: true, ..point.request(at.as_deref().unwrap_or_default()) };
        restore_to(&source, &scratch.path().join("database"), request)?;
        Ok(scratch)
    })
    .await?;
    ship(scratch.path().join("database"), target, false, out).await
}
