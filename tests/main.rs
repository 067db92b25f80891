//! All integration tests, in one binary. `cargo test --test integration FILE::` runs the tests of one file.

mod harness;

mod answers;
mod bench;
mod compaction;
mod compaction_crash;
mod crash;
mod daemons;
mod damage;
mod disk_faults;
mod doctor;
mod documentation;
mod driftctl_watch;
mod driftql;

mod errors;
mod examples;
mod fencing;
mod format;
mod full_disk;
mod hostile_bytes;
mod hot_rows;
mod ingest;
mod layers;
mod limits;
mod loading;
mod many_tables;
mod many_versions;
mod power_cut;
mod readiness;
mod replicas;
mod requests;
mod safe_retries;
mod selects;
mod snapshot_crash;
mod snapshot_damage;
mod snapshot_restart;
mod sshfs;
mod statements;
mod storage_check;
mod takeover;
mod tidy;
mod time_travel;
mod verify;
mod watch;
mod watch_checker;
mod watch_fan;
mod watch_oracle;
mod watch_resume;
mod watch_stalled;

mod write_read;
