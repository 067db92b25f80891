//! The progress of a load, shown as a line on a terminal.

use std::time::Duration;

use tokio::time::Instant;

use crate::render::ProgressLine;

/// The width of the bar, in characters.
const BAR: u64 = 24;

/// The progress line, and the numbers in it.
#[derive(Debug)]
pub(crate) struct Meter {
    progress: ProgressLine,
    /// The length of the file in bytes, if known.
    total: Option<u64>,
    began: Option<Instant>,
    /// The byte offset at which this run starts.
    from: u64,
    rows: u64,
}

impl Meter {
    /// Creates a meter for a load that has not started.
    pub(crate) fn new(total: Option<u64>) -> Meter {
        let total = total.filter(|total| *total > 0);
        Meter { progress: ProgressLine::default(), total, began: None, from: 0, rows: 0 }
    }

    /// Notes that an earlier run loaded the file up to a byte offset.
    pub(crate) fn pass_over(&mut self, offset: u64) {
        self.from = offset;
    }

    /// Starts the clock when the first rows are sent.
    pub(crate) fn begin(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// Notes that more rows are on disk, up to a byte offset of the file.
    pub(crate) fn add(&mut self, rows: u64, offset: u64) {
        self.rows += rows;
        let Some(began) = self.began else { return };
        let (rows, from, total) = (self.rows, self.from, self.total);
        self.progress.show(line(rows, (from, offset, total), began.elapsed()));
    }
}

fn line(rows: u64, (from, offset, total): (u64, u64, Option<u64>), time: Duration) -> String {
    let ms = time.as_millis().max(1);
    // The counters are far below the limit.
    let ratio = |a: u64, b: u128| u64::try_from(u128::from(a) * b).unwrap_or(u64::MAX);
    let per_second = ratio(rows, 1000) / u64::try_from(ms).unwrap_or(u64::MAX);
    let rate = format!("{} rows  {}/s", grouped(rows), grouped(per_second));
    let Some(total) = total else { return rate };
    let offset = offset.min(total);
    let filled = ratio(offset, BAR.into()) / total;
    let bar: String = (0..BAR).map(|cell| if cell < filled { '█' } else { '░' }).collect();
    let percent = ratio(offset, 100) / total;
    let left = ratio(total - offset, ms) / offset.saturating_sub(from).max(1) / 1000;
    let clock = match left / 3600 {
        0 => format!("{:02}:{:02}", left / 60, left % 60),
        hours => format!("{hours}:{:02}:{:02}", left / 60 % 60, left % 60),
    };
    format!("{bar} {percent:>3} %  {rate}  {clock} left")
}

/// The number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_rate_and_remaining_time() {
        let ten = Duration::from_secs(10);
        assert_eq!(line(123_456, (0, 0, None), ten), "123,456 rows  12,345/s");
        let half = format!("{}{}", "█".repeat(12), "░".repeat(12));
        assert_eq!(
            line(1000, (0, 500, Some(1000)), ten),
            format!("{half}  50 %  1,000 rows  100/s  00:10 left")
        );
        // Rows of earlier runs do not count for the rate of this run.
        assert!(line(100, (400, 500, Some(1000)), ten).ends_with("00:50 left"));
        assert!(line(1, (0, 1, Some(1000)), ten).ends_with("2:46:30 left"));
        assert!(line(9, (0, 1000, Some(1000)), ten).ends_with("100 %  9 rows  0/s  00:00 left"));
    }
}
