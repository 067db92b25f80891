//! What the looks at the daemons have found so far.

use std::collections::VecDeque;

use super::figures::{DaemonFigures, DaemonRates};

/// The rates of commits that the view remembers: more than a terminal has columns.
const REMEMBERED: usize = 512;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct TopState {
    /// The daemons as they were at the last look.
    pub(super) daemons: Vec<(DaemonFigures, DaemonRates)>,
    /// The commits per second of the writer, or of the first reader if no writer is there, oldest first.
    pub(super) commits: VecDeque<f64>,
}

impl TopState {
    /// Takes a look into account. Daemons are known by their addresses.
    pub(super) fn add(&mut self, found: Vec<DaemonFigures>) {
        let before = std::mem::take(&mut self.daemons);
        let with_rates = |figures: DaemonFigures| {
            let known =
                before.iter().find(|(known, _)| known.url == figures.url && known.role == figures.role);
            let rates = known.map(|(known, _)| figures.rates_since(known)).unwrap_or_default();
            (figures, rates)
        };
        self.daemons = found.into_iter().map(with_rates).collect();
        let rates = self.daemons.iter().find_map(|(_, rates)| rates.commits);
        if !before.is_empty() {
            self.commits.push_back(rates.unwrap_or_default());
            if self.commits.len() > REMEMBERED {
                self.commits.pop_front();
            }
        }
    }
}
