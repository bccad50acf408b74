//! Time as vmkpi writes it: microseconds since 1970-01-01T00:00:00Z, shown as RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;

use crate::text::text_serde;

/// The latest timestamp accepted: 9999-12-30T21:59:59.999999Z, the last that has an RFC 3339 form in
/// every time zone.
pub const MAX_MICROS: i64 = 253_402_207_199_999_999;

/// A wall-clock instant in microseconds since 1970, UTC; never before 1970 nor after the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant `micros` microseconds after 1970, brought into the accepted range.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(0, MAX_MICROS))
    }

    /// What the system's clock says. The only place that reads the wall clock.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self::from_micros(i64::try_from(since.as_micros()).unwrap_or(MAX_MICROS))
    }

    /// Microseconds since 1970.
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, rounded down: the unit of intervals and windows.
    pub fn as_millis(self) -> i64 {
        self.0 / 1000
    }

    /// Seconds since 1970, the unit of Prometheus.
    pub fn as_seconds_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, always with six decimals, always in UTC: `2026-11-20T17:00:00.000001Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_microsecond(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{instant:.6}")
    }
}

/// Text that is no RFC 3339 time between 1970 and 9999.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time between 1970 and 9999")]
pub struct TimestampError(String);

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimestampError(text.into()))?;
        match instant.as_microsecond() {
            micros @ 0..=MAX_MICROS => Ok(Self(micros)),
            _ => Err(TimestampError(text.into())),
        }
    }
}

text_serde!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_with_six_decimals_and_read_back() {
        let t = Timestamp::from_micros(1_795_194_000_000_001);
        assert_eq!(t.to_string(), "2026-11-20T17:00:00.000001Z");
        assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        assert_eq!(
            Timestamp::from_micros(0).to_string(),
            "1970-01-01T00:00:00.000000Z"
        );
    }

    #[test]
    fn times_outside_the_range_are_refused_or_clamped() {
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::from_micros(-5).as_micros(), 0);
        assert_eq!(Timestamp::from_micros(i64::MAX).as_micros(), MAX_MICROS);
        assert_eq!(
            Timestamp::from_micros(MAX_MICROS).to_string(),
            "9999-12-30T21:59:59.999999Z"
        );
    }
}
