//! The files whose upload fails for a reason that does not pass by itself: each attempt reads the file, so the next ones come later and later.

use std::time::{Duration, Instant};

use crate::bucket::ship_source::WantedFile;
use crate::error::{Error, Reason};

/// The pause before a file is tried again, and the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct PostponedUpload {
    file: WantedFile,
    error: Error,
    pause: Duration,
    until: Instant,
}

/// The files that are not tried again yet.
#[derive(Debug, Default)]
pub(super) struct PostponedUploads(Vec<PostponedUpload>);

impl PostponedUploads {
    /// Forgets the files that are not wanted any more.
    pub(super) fn retain(&mut self, wanted: &[WantedFile]) {
        self.0.retain(|postponed| wanted.contains(&postponed.file));
    }

    /// Why the last attempt failed, if the next one comes later.
    pub(super) fn problem_of(&self, file: &WantedFile) -> Option<Error> {
        let found = self.0.iter().find(|postponed| postponed.file == *file);
        found.filter(|postponed| postponed.until > Instant::now()).map(|postponed| postponed.error.clone())
    }

    /// Postpones the next attempt, unless the store did not answer: then the next one may succeed at any time.
    pub(super) fn note_failure(&mut self, file: WantedFile, error: &Error) {
        if error.reason() == Reason::Unreachable {
            return;
        }
        let before = self.0.iter().position(|postponed| postponed.file == file);
        let before = before.map(|at| self.0.swap_remove(at));
        let pause = before.map_or(PAUSE_FIRST, |before| (before.pause * 2).min(PAUSE_MAX));
        self.0.push(PostponedUpload { file, error: error.clone(), pause, until: Instant::now() + pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_tried_less_and_less_often() {
        let file = WantedFile { table: 1, path: "tables/t/snapshots/x".to_owned(), bytes: 10 };
        let mut postponed = PostponedUploads::default();
        let denied = Error::new(Reason::PermissionDenied, "no");
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            postponed.note_failure(file.clone(), &denied);
            assert_eq!(postponed.0.len(), 1);
            assert_eq!(postponed.0[0].pause, Duration::from_secs(pause));
            assert_eq!(postponed.problem_of(&file).unwrap().reason(), Reason::PermissionDenied);
        }
        let other = WantedFile { bytes: 11, ..file };
        assert!(postponed.problem_of(&other).is_none());
        postponed.note_failure(other.clone(), &Error::new(Reason::Unreachable, "silent"));
        assert!(postponed.problem_of(&other).is_none());
        postponed.retain(&[other]);
        assert!(postponed.0.is_empty());
    }
}
