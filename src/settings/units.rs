//! Values as people write them: numbers with bounds, durations, octal modes, bounded files.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The units of a duration, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A path: any text but none.
pub fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("an empty path".into()),
        text => Ok(text.into()),
    }
}

/// A number from `least` to `most`.
pub fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let n: u64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no whole number from {least} to {most}"))?;
    match n {
        n if n < least => Err(format!("{n} is less than {least}")),
        n if n > most => Err(format!("{n} is more than {most}")),
        n => Ok(n),
    }
}

/// A duration that is not zero: `500ms`, `10s`, `5m`, `1h`, `30d`.
///
/// # Errors
/// It is none of these.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_elapsed(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            format!("{text:?} is no duration: write \"500ms\", \"10s\", \"5m\", \"1h\", \"30d\"")
        })
}

/// How long ago, which may be zero, in the units of a duration.
pub fn parse_elapsed(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let ms = number.parse::<u64>().ok()?.checked_mul(*ms)?;
    Some(Duration::from_millis(ms))
}

/// A duration in the largest unit that divides it.
pub fn duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    UNITS
        .iter()
        .find(|(_, unit)| ms.is_multiple_of(*unit))
        .map_or_else(
            || format!("{ms}ms"),
            |(name, unit)| format!("{}{name}", ms / unit),
        )
}

/// Permission bits.
pub fn mode(text: &str) -> Result<u16, String> {
    let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal
        .then(|| u16::from_str_radix(text, 8).ok())
        .flatten()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} is no mode: write octal digits from 0000 to 0777"))
}

/// Permission bits as they are written.
pub fn show_mode(mode: u16) -> String {
    format!("{mode:04o}")
}

/// A text file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, is longer, or is not UTF-8.
pub fn read_bounded(path: &Path, limit: usize) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(limit as u64 + 1)
        .read_to_string(&mut text)?;
    if text.len() > limit {
        let message = format!("more than {limit} bytes");
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            message,
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for text in ["500ms", "10s", "5m", "1h", "30d", "90s"] {
            assert_eq!(duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(duration(Duration::from_secs(7200)), "2h");
        for bad in [
            "",
            "10",
            "0s",
            "s",
            "1.5s",
            "-1s",
            "1y",
            "99999999999999999999d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("7"), Ok(7));
        for bad in ["", "0888", "1777", "rw", "+7", "99999999999"] {
            assert!(mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_say_their_bounds() {
        assert_eq!(number("7", 1, 9), Ok(7));
        assert!(number("0", 1, 9).unwrap_err().contains("less than 1"));
        assert!(number("10", 1, 9).unwrap_err().contains("more than 9"));
        assert!(number("x", 1, 9).unwrap_err().contains("from 1 to 9"));
    }
}
