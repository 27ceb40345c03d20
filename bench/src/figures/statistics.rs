//! Statistics of several times.
//!
//! Input: times. Output: their median and their maximum.
//! Invariants: pure; the result of an empty list is zero.

use std::time::Duration;

/// The median; of an even number, the larger one of the two in the middle.
#[must_use]
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The longest time.
#[must_use]
pub fn worst(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

/// A time in milliseconds.
#[must_use]
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle_and_worst_at_the_end() {
        let times = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(median(&times), Duration::from_millis(2));
        assert_eq!(worst(&times), Duration::from_millis(3));
        assert_eq!(median(&times[..2]), Duration::from_millis(3));
    }
}
