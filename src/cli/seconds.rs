//! Times on the command line: seconds, or a time span such as `10m`.

use std::ops::RangeInclusive;

use jiff::{Span, SpanRelativeTo};

/// Returns a parser for times within these limits, in seconds. A day has 24 hours.
pub(super) fn seconds(
    limits: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync {
    move |text| {
        let seconds = number(text).ok_or_else(|| {
            "write seconds, or a time span such as 90s, 10m, 12h or 1d".to_owned()
        })?;
        if limits.contains(&seconds) {
            return Ok(seconds);
        }
        Err(format!("{seconds} s is not between {} and {} s", limits.start(), limits.end()))
    }
}

fn number(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    duration.as_secs().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_a_span() {
        let parse = seconds(1..=100_000);
        for (text, found) in [
            ("90", 90),
            ("90s", 90),
            ("10m", 600),
            ("12h", 43_200),
            ("1d", 86_400),
            ("1h30m", 5_400),
        ] {
            assert_eq!(parse(text), Ok(found), "{text}");
        }
        for text in ["", "-5", "-5s", "x", "1mo", "10 %", "99999999999999999999", "m"] {
            assert!(parse(text).unwrap_err().contains("a time span such as"), "{text}");
        }
        for text in ["0", "0s", "200000", "3d", "10ms"] {
            assert!(parse(text).unwrap_err().contains("is not between 1 and 100000 s"), "{text}");
        }
    }
}
