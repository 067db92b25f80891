//! A disk in memory that can lose power, fail and lie, for tests.
