//! Who besides its owner may read or change a file of the user, as ssh checks its own files.

use std::io;
use std::path::Path;

use rustix::fs::stat;
use rustix::process::geteuid;

/// Who besides its owner may use a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignAccess {
    /// Whether the file belongs to another user, who is not root either.
    pub is_foreign: bool,
    /// Whether others than the owner may read it.
    pub is_readable: bool,
    /// Whether others than the owner may change it.
    pub is_writable: bool,
    /// The permissions, as `chmod` takes them.
    pub mode: u32,
}

/// Looks at the owner and the permissions of a file. Links are followed.
pub fn foreign_access(path: &Path) -> io::Result<ForeignAccess> {
    let found = stat(path)?;
    let mode = found.st_mode & 0o777;
    Ok(ForeignAccess {
        is_foreign: found.st_uid != 0 && found.st_uid != geteuid().as_raw(),
        is_readable: mode & 0o044 != 0,
        is_writable: mode & 0o022 != 0,
        mode,
    })
}
