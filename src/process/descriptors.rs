//! How many file descriptors the process may open, and how much of that each kind of connection takes.
//!
//! Input: `/proc/self/limits`. Output: bounds of connections.
//! Invariants: with a usual limit of 1,024 or more, no bound changes. With a small one, long-lived
//! streams leave descriptors for requests.

use std::path::Path;

/// Where Linux shows the limits of the process.
const LIMITS: &str = "/proc/self/limits";

/// The limit of open files. `usize::MAX` if it is unlimited or unknown.
#[must_use]
pub fn descriptor_limit() -> usize {
    let text = std::fs::read_to_string(Path::new(LIMITS)).unwrap_or_default();
    soft_limit(&text).unwrap_or(usize::MAX)
}

fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
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
    fn reads_the_soft_limit() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             94587                94587                processes \n\
            Max open files            64                   1048576              files     \n";
        assert_eq!(soft_limit(limits), Some(64));
        assert_eq!(
            soft_limit("Max open files   unlimited   unlimited   files"),
            None
        );
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn usual_limits_change_nothing_and_small_ones_leave_room() {
        assert_eq!(bounded(256, 1024, 4), 256);
        assert_eq!(bounded(256, usize::MAX, 4), 256);
        assert_eq!(bounded(256, 64, 4), 16);
        assert_eq!(bounded(8, 3, 16), 1);
        assert_eq!(bounded(0, 64, 4), 0, "no stream at all was asked for");
    }
}
