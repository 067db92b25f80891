//! A request that names a commit waits for the follower to apply it, if somebody vouches for the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::Reason;
use driftdb_common::table::point_in_time::PointInTime;

use crate::follower::Follower;
use crate::follower::test_log::{TestLog, files};
use crate::freshness::Freshness;
use crate::replica::Applied;

/// A Select is resumed at a replica that is behind. Its token proves that the commit exists: the replica waits for it, and does
/// not answer that it does not exist.
#[tokio::test]
async fn a_replica_that_is_behind_waits_for_the_commit_of_a_token() {
    let log = TestLog::start(3);
    let mut follower = Follower::open(files(&log.disk)).unwrap();
    follower.check_head().unwrap();
    let (replica, stop) = (Arc::clone(follower.replica()), Arc::new(AtomicBool::new(false)));
    let checks = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Acquire) {
                follower.check_head().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let freshness = || {
        let wait = Duration::from_millis(100).try_into().ok();
        Freshness::from_wire(Some(v1::Freshness { wait, ..v1::Freshness::default() }), &replica).unwrap()
    };
    let point = Some(PointInTime::Seq(7));
    let unknown = replica.wait_until_fresh(freshness(), point).await.unwrap_err();
    assert_eq!(unknown.reason(), Reason::BeyondHead);
    let vouched = replica.wait_until_fresh(freshness().at_least(7), point).await.unwrap_err();
    assert_eq!(vouched.reason(), Reason::ReplicaBehind);
    stop.store(true, Ordering::Release);
    checks.join().unwrap();
    replica.publish(Applied { seq: 7, ..Applied::clone(&replica.applied()) }, []);
    assert_eq!(replica.wait_until_fresh(freshness().at_least(7), point).await.unwrap().seq, 7);
}
