//! The lineage of a history: which opens for writing (incarnations) its commits come from (`lineage.json`).
//!
//! A seq alone does not name a commit: after an older copy of a database is put back and written on, the same seqs name
//! other commits. Each open for writing therefore draws a random number, its *incarnation*, and the lineage says after
//! which seq each incarnation began. An incarnation and a seq together, a *lineage point*, name one commit for ever. As in
//! Kafka's leader epochs (KIP-101), a history contains a point if it contains the incarnation, and the next incarnation
//! began at or after the seq.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::planted::{PlantedBug, is_planted};

/// A commit, named beyond doubt: the incarnation that wrote it, and its seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineagePoint {
    /// The incarnation; 0 if it is not known, because the commit is older than lineages.
    pub incarnation: u64,
    /// The seq.
    pub seq: u64,
}

/// An incarnation: one open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageEntry {
    /// The random number that names the incarnation; never 0.
    #[serde(with = "super::manifest::hex")]
    pub id: u64,
    /// The last commit before the incarnation began.
    pub start: u64,
}

/// The incarnations of a history, oldest first. The last one is current.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// The incarnations, in the order in which they began.
    #[serde(rename = "incarnations")]
    entries: Vec<LineageEntry>,
    /// The last commit that the current incarnation can have; `None` while its writer may still commit.
    #[serde(skip)]
    end: Option<u64>,
}

/// Whether a history contains a lineage point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It does, or will once it has reached the seq.
    Contained,
    /// It does not: the incarnation's commits in this history end before the seq.
    Lost,
    /// The incarnation is not in this history, as far as it is known.
    Unknown,
}

impl Lineage {
    /// The lineage of a history of which only the current incarnation is known.
    pub fn of(current: LineageEntry) -> Lineage {
        Lineage { entries: vec![current], end: None }
    }

    /// The incarnations, oldest first.
    pub fn entries(&self) -> &[LineageEntry] {
        &self.entries
    }

    /// The current incarnation; 0 if the history is older than lineages.
    pub fn current(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.id)
    }

    /// The lineage as of the time when an incarnation was current; `None` if it is not in it.
    pub fn up_to(mut self, incarnation: LineageEntry) -> Option<Lineage> {
        let index = self.entries.iter().position(|entry| *entry == incarnation)?;
        self.entries.truncate(index + 1);
        self.end = None;
        Some(self)
    }

    /// The last commit that the current incarnation can have; `None` while its writer may still commit.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// The lineage whose current incarnation can have no commit after `end`.
    #[must_use]
    pub fn ended_at(mut self, end: u64) -> Lineage {
        self.end = Some(end);
        self
    }

    /// Begins an incarnation. Removes those before it that have no commit in this history, except the last one: HEAD names
    /// it until it names the new one. Removes the oldest if there are more than [`limits::LINEAGE_ENTRIES`].
    pub fn begin(&mut self, incarnation: LineageEntry) {
        let last = self.current();
        let has_commits = |entry: &LineageEntry| entry.start < incarnation.start;
        self.entries
            .retain(|entry| has_commits(entry) || (entry.id == last && entry.start == incarnation.start));
        // An incarnation without commits starts where the next one does.
        self.entries.dedup_by(|later, earlier| {
            let is_empty = later.start == earlier.start;
            if is_empty {
                *earlier = *later;
            }
            is_empty
        });
        self.entries.push(incarnation);
        let excess = self.entries.len().saturating_sub(limits::LINEAGE_ENTRIES);
        self.entries.drain(..excess);
        self.end = None;
    }

    /// Names a commit of this history.
    pub fn point(&self, seq: u64) -> LineagePoint {
        let writer = self.entries.iter().rev().find(|entry| entry.start < seq);
        LineagePoint { incarnation: writer.map_or(0, |entry| entry.id), seq }
    }

    /// Whether this history contains a point. The one check of every token, and of every HEAD that a reader follows. A point
    /// without an incarnation is not checked.
    pub fn membership(&self, point: LineagePoint) -> Membership {
        if point.incarnation == 0 || is_planted(PlantedBug::LineageUnchecked) {
            return Membership::Contained;
        }
        let Some(index) = self.entries.iter().position(|entry| entry.id == point.incarnation) else {
            return Membership::Unknown;
        };
        let end = self.entries.get(index + 1).map(|next| next.start).or(self.end);
        if end.is_some_and(|end| end < point.seq) { Membership::Lost } else { Membership::Contained }
    }

    /// Whether this history continues one whose last commit is `point`. Unlike a token, a point without an incarnation must
    /// be at most where the first incarnation began: the reader that holds it has seen no incarnation.
    pub fn continues(&self, point: LineagePoint) -> bool {
        if is_planted(PlantedBug::LineageUnchecked) {
            return true;
        }
        match point.incarnation {
            0 => {
                let first = self.entries.first().map(|first| first.start);
                first.or(self.end).is_none_or(|end| end >= point.seq)
            }
            _ => self.membership(point) == Membership::Contained,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(entries: &[(u64, u64)]) -> Lineage {
        let mut lineage = Lineage::default();
        entries.iter().for_each(|(id, start)| lineage.begin(LineageEntry { id: *id, start: *start }));
        lineage
    }

    fn ids(lineage: &Lineage) -> Vec<u64> {
        lineage.entries().iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn a_point_is_contained_up_to_where_the_next_incarnation_began() {
        let lineage = lineage(&[(7, 0), (8, 10), (9, 20)]);
        let found = |incarnation, seq| lineage.membership(LineagePoint { incarnation, seq });
        assert_eq!((found(7, 10), found(7, 11)), (Membership::Contained, Membership::Lost));
        assert_eq!((found(8, 20), found(8, 21)), (Membership::Contained, Membership::Lost));
        assert_eq!(
            (found(9, 1000), found(5, 1), found(0, 1000)),
            (Membership::Contained, Membership::Unknown, Membership::Contained)
        );
        let ended = lineage.clone().ended_at(25);
        assert_eq!(ended.membership(LineagePoint { incarnation: 9, seq: 26 }), Membership::Lost);
        assert_eq!([0, 1, 10, 11, 20, 21].map(|seq| lineage.point(seq).incarnation), [0, 7, 7, 8, 8, 9]);
    }

    #[test]
    fn incarnations_without_commits_are_dropped_and_the_list_is_bounded() {
        assert_eq!(ids(&lineage(&[(1, 0), (2, 0), (3, 0), (4, 5)])), [3, 4]);
        // Commits after 5 were lost with a HEAD that the doctor rebuilt.
        assert_eq!(ids(&lineage(&[(1, 0), (2, 9), (3, 5)])), [1, 3]);
        let many: Vec<_> = (1..=2 * limits::LINEAGE_ENTRIES as u64).map(|n| (n, n)).collect();
        let lineage = lineage(&many);
        assert_eq!(lineage.entries().len(), limits::LINEAGE_ENTRIES);
        assert_eq!(lineage.current(), 2 * limits::LINEAGE_ENTRIES as u64);
    }

    #[test]
    fn a_history_without_incarnations_is_continued_only_from_its_end() {
        let lineage = lineage(&[(7, 10)]);
        let continues = |seq| lineage.continues(LineagePoint { incarnation: 0, seq });
        assert_eq!([0, 10, 11].map(continues), [true, true, false]);
        assert!(Lineage::default().continues(LineagePoint { incarnation: 0, seq: 11 }));
    }
}
