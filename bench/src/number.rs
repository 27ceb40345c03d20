//! Numbers: counts as floating point, and values as text for readers.
//!
//! Input: a value. Output: another representation of it.
//! Invariants: pure.

/// A count as a floating point number.
#[allow(clippy::cast_precision_loss)] // Counts are far below 2^53.
pub fn as_f64<N: TryInto<u64>>(count: N) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// A value as text: three significant digits, with a separator between thousands.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 100.0 || (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let (whole, rest) = text
        .find('.')
        .map_or((text.as_str(), ""), |dot| text.split_at(dot));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0
            && (whole.len() - at).is_multiple_of(3)
            && digit.is_ascii_digit()
            && !grouped.ends_with('-')
        {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A value with its unit; an empty unit adds nothing.
#[must_use]
pub fn with_unit(value: f64, unit: &str) -> String {
    let text = number(value);
    if unit.is_empty() {
        text
    } else {
        format!("{text} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (2.0, "2"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (12_345.6, "12,346"),
            (-1_000_000.0, "-1,000,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
