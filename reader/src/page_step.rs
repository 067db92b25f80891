//! The outcome of one step towards the next page of a response.

use driftdb_common::error::Result;

/// The outcome of one step towards the next page.
#[derive(Debug)]
pub enum PageStep<T> {
    /// A page; more may follow.
    Page(T),
    /// The last page.
    LastPage(T),
    /// No page yet. Other requests have their turns before the next step.
    Working,
    /// The end, after all pages.
    End,
}

impl<T> PageStep<T> {
    /// The step, unless another one must follow before there is a page.
    pub fn finished(self) -> Option<PageStep<T>> {
        match self {
            PageStep::Working => None,
            step => Some(step),
        }
    }

    /// Converts the page, if the step has one.
    pub fn try_map<U>(self, convert: impl FnOnce(T) -> Result<U>) -> Result<PageStep<U>> {
        Ok(match self {
            PageStep::Page(page) => PageStep::Page(convert(page)?),
            PageStep::LastPage(page) => PageStep::LastPage(convert(page)?),
            PageStep::Working => PageStep::Working,
            PageStep::End => PageStep::End,
        })
    }
}
