//! An oracle for everything at once: clients that journal what they write, daemons that are replaced, and watchers that check.

pub mod client;
pub mod site;
pub mod watchers;
