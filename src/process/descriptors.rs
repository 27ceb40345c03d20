//! How many file descriptors the process may open, and how much of that each kind of connection takes.
//!
//! Input: the limit of open files. Output: bounds of connections.
//! Invariants: with a usual limit of 1,024 or more, no bound changes. With a small one, long-lived
//! streams leave descriptors for requests.

use crate::linux;

/// The limit of open files. `usize::MAX` if it is unlimited or unknown.
#[must_use]
pub fn descriptor_limit() -> usize {
    linux::descriptor_limit().unwrap_or(usize::MAX)
}

/// At most one of `parts` parts of the limit, and at least one.
#[must_use]
pub fn bounded(wanted: usize, limit: usize, parts: usize) -> usize {
    wanted.min((limit / parts).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_limits_change_nothing_and_small_ones_leave_room() {
        assert_eq!(bounded(256, 1024, 4), 256);
        assert_eq!(bounded(256, usize::MAX, 4), 256);
        assert_eq!(bounded(256, 64, 4), 16);
        assert_eq!(bounded(8, 3, 16), 1);
        assert_eq!(bounded(0, 64, 4), 0, "no stream at all was asked for");
    }
}
