//! Several times of the same thing, as a reader wants them.

use std::time::Duration;

/// The one in the middle; of an even number the later of the two there.
pub(super) fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The longest.
pub(super) fn worst(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_the_worst_at_the_end() {
        let times = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(median(&times), Duration::from_millis(2));
        assert_eq!(worst(&times), Duration::from_millis(3));
        assert_eq!(median(&times[..2]), Duration::from_millis(3));
    }
}
