//! Times on the command line: RFC 3339, or how long ago.

use vmkpi::clock::Timestamp;
use vmkpi::settings::units::parse_elapsed;

/// An instant, by this machine's clock where it is told as one ago.
///
/// # Errors
/// It is neither.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, Timestamp::now())
}

fn parse_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let hint =
        || "a time is needed, as 2026-11-20T17:00:00Z, or as -90s, -15m, -1h, -7d".to_owned();
    let Some(ago) = text.strip_prefix('-') else {
        return text.parse().map_err(|_| hint());
    };
    let ago = parse_elapsed(ago).ok_or_else(hint)?;
    let ago = i64::try_from(ago.as_micros()).map_err(|_| hint())?;
    Ok(Timestamp::from_micros(now.as_micros().saturating_sub(ago)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_or_how_long_ago() {
        let now = Timestamp::from_micros(1_795_194_000_000_001);
        let at = |text: &str| parse_at(text, now).map(|t| now.as_micros() - t.as_micros());
        assert_eq!(at("-0s"), Ok(0), "now");
        assert_eq!(at("-90s"), Ok(90_000_000));
        assert_eq!(at("-2h"), Ok(7_200_000_000));
        assert_eq!(at("-1d"), Ok(86_400_000_000));
        assert_eq!(at("2026-11-20T17:00:00Z"), Ok(1));
        for bad in [
            "",
            "-",
            "-h",
            "-1",
            "-1.5h",
            "1h",
            "--1h",
            "-1ü",
            "yesterday",
        ] {
            assert!(at(bad).unwrap_err().contains("-90s"), "{bad:?}");
        }
        assert_eq!(parse_at("-99999d", now), Ok(Timestamp::from_micros(0)));
    }
}
