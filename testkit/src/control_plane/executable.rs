//! Finds executable files.
//!
//! Input: a path, or a name. Output: the path of an executable file.
//! Invariants: a folder or a file without the executable bit is not found.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The path, if it is an executable file.
pub(super) fn executable(path: PathBuf) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
}

/// The program of that name on `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .find_map(|folder| executable(folder.join(name)))
}
