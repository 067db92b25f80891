//! The moments of `AS OF EVERY`.

use std::time::Duration;

use crate::table::point_in_time::PointInTime;

/// `AS OF EVERY step FROM point [TO point]`: the moments to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EveryMoment {
    /// How far the moments are apart.
    pub step: MomentStep,
    /// The first moment.
    pub from: PointInTime,
    /// No moment is after this one; now if `None`.
    pub to: Option<PointInTime>,
}

/// How far two moments are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MomentStep {
    /// A fixed time: seconds, minutes, hours.
    Fixed(Duration),
    /// Days of the calendar: the same time of day, in the time zone of the request.
    Days(u64),
    /// Months of the calendar: the same day of the month, or the month's last.
    Months(u64),
    /// Commits.
    Seqs(u64),
}
