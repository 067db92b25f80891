//! Vital threads and tasks: those without which a daemon does not do its work, and which nobody starts again.
//!
//! One that panics ends, while all others go on: a reader would serve old data for ever. So each holds a [`VitalPart`], and the
//! check of the supervisor asks [`check`] whether one is lost.

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};

/// The parts of a process that are lost.
#[derive(Debug)]
struct LostParts(Mutex<Option<&'static str>>);

/// Those of this process.
static LOST: LostParts = LostParts(Mutex::new(None));

impl LostParts {
    fn check(&self) -> Result<()> {
        match *self.0.lock() {
            None => Ok(()),
            Some(name) => {
                let message = format!(
                    "a part of this process has ended: {name} panicked; start it again, and report the panic in its log"
                );
                Err(Error::new(Reason::Internal, message))
            }
        }
    }
}

/// What a vital thread or task holds while it runs. If it ends by a panic, the process is not alive any more.
#[derive(Debug)]
pub struct VitalPart {
    name: &'static str,
    lost: &'static LostParts,
}

impl VitalPart {
    /// To be held by the thread or the task itself.
    pub fn new(name: &'static str) -> VitalPart {
        VitalPart { name, lost: &LOST }
    }
}

impl Drop for VitalPart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lost.0.lock().get_or_insert(self.name);
        }
    }
}

/// Fails, with the reason, if a vital part of this process has panicked.
///
/// # Errors
/// [`Reason::Internal`].
pub fn check() -> Result<()> {
    LOST.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_panics_is_lost_and_one_that_ends_is_not() {
        static HERE: LostParts = LostParts(Mutex::new(None));
        let run = |name, panics: bool| {
            let thread = std::thread::spawn(move || {
                let _part = VitalPart { name, lost: &HERE };
                assert!(!panics, "for this test");
            });
            assert_eq!(thread.join().is_err(), panics);
        };
        run("one", false);
        HERE.check().unwrap();
        run("two", true);
        run("three", true);
        assert!(HERE.check().unwrap_err().message().contains("two panicked"));
    }

    #[tokio::test]
    async fn so_is_a_task_that_panics() {
        static HERE: LostParts = LostParts(Mutex::new(None));
        let task = tokio::spawn(async {
            let _part = VitalPart { name: "a task", lost: &HERE };
            tokio::task::yield_now().await;
            panic!("for this test");
        });
        task.await.unwrap_err();
        HERE.check().unwrap_err();
        // One that is dropped has not panicked.
        static ABORTED: LostParts = LostParts(Mutex::new(None));
        let task = tokio::spawn(async {
            let _part = VitalPart { name: "a task", lost: &ABORTED };
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        task.await.unwrap_err();
        ABORTED.check().unwrap();
    }
}
