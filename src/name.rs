//! Names that are legal everywhere they go. A [`KpiName`] exists only if it is legal as a file name,
//! as an SQLite table and, once encoded, as an MQTT topic level; a [`Label`] names a VM, a site, a
//! service or a specifier; a [`DataPoint`] is what can be monitored.

use std::fmt;
use std::str::FromStr;

use crate::text::text_serde;

/// The longest KPI name, in bytes: short enough that a topic with it fits MQTT's 65,535 bytes even
/// when every byte is percent-encoded, long enough for a file name (NAME_MAX is 255).
pub const MAX_NAME_BYTES: usize = 200;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, `.` or `..`.
    #[error("a name must not be empty, \".\" or \"..\"")]
    Empty,
    /// Over [`MAX_NAME_BYTES`].
    #[error("the name is {0} bytes long; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A control character, a slash, or bytes that are not UTF-8.
    #[error("{0:?} has a control character or a slash")]
    Character(String),
    /// A leading dot: the name of a scratch file, which is never stored.
    #[error("{0:?} starts with a dot: it is scratch and never stored")]
    Scratch(String),
    /// `sqlite_...`, which SQLite keeps for itself.
    #[error("{0:?} starts with \"sqlite_\", which SQLite keeps for itself")]
    Reserved(String),
    /// Not `encrypted/NAME`, `unencrypted/NAME` or `infra/GROUP`.
    #[error("{0:?} is no data point: write unencrypted/NAME, encrypted/NAME or infra/GROUP")]
    Point(String),
}

fn check_common(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    if name.chars().any(|c| c.is_control() || c == '/') {
        return Err(NameError::Character(name.into()));
    }
    Ok(())
}

/// The name of a KPI: its file in the partition, its table in the store, the last level of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KpiName(Box<str>);

impl KpiName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KpiName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check_common(name)?;
        if name.starts_with('.') {
            return Err(NameError::Scratch(name.into()));
        }
        if name
            .get(..7)
            .is_some_and(|p| p.eq_ignore_ascii_case("sqlite_"))
        {
            return Err(NameError::Reserved(name.into()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for KpiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(KpiName);

/// A name given by a person to a VM, a service, a site or a specifier: 1 to 200 bytes of UTF-8
/// without control characters or slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        check_common(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_serde!(Label);

/// One of the partition's two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// CSV that vmkpi parses.
    Unencrypted,
    /// Bytes that nobody but the key's owner reads.
    Encrypted,
}

impl Area {
    /// Both, in the order of their inodes.
    pub const ALL: [Self; 2] = [Self::Encrypted, Self::Unencrypted];

    /// The directory's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unencrypted => "unencrypted",
            Self::Encrypted => "encrypted",
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A thing that can be monitored: `unencrypted/NAME`, `encrypted/NAME`, `infra/GROUP`, and
/// `infra/GROUP/DEVICE` for each device of a group that has devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataPoint {
    /// A KPI that the application writes.
    Kpi(Area, KpiName),
    /// What the hypervisor says: a group, and the device where a group has several.
    Infra(Label, Option<Label>),
}

impl DataPoint {
    /// The topic levels of the point, each encoded for MQTT.
    pub fn topic_levels(&self) -> String {
        match self {
            Self::Kpi(area, name) => format!("{area}/{}", topic_level(name.as_str())),
            Self::Infra(group, None) => format!("infra/{}", topic_level(group.as_str())),
            Self::Infra(group, Some(device)) => format!(
                "infra/{}/{}",
                topic_level(group.as_str()),
                topic_level(device.as_str())
            ),
        }
    }

    /// Whether vmkpi may not look into the point's values.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Kpi(Area::Encrypted, _))
    }
}

impl FromStr for DataPoint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (head, rest) = text
            .split_once('/')
            .ok_or_else(|| NameError::Point(text.into()))?;
        match head {
            "unencrypted" => Ok(Self::Kpi(Area::Unencrypted, rest.parse()?)),
            "encrypted" => Ok(Self::Kpi(Area::Encrypted, rest.parse()?)),
            "infra" => match rest.split_once('/') {
                None => Ok(Self::Infra(rest.parse()?, None)),
                Some((group, device)) => Ok(Self::Infra(group.parse()?, Some(device.parse()?))),
            },
            _ => Err(NameError::Point(text.into())),
        }
    }
}

impl fmt::Display for DataPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kpi(area, name) => write!(f, "{area}/{name}"),
            Self::Infra(group, None) => write!(f, "infra/{group}"),
            Self::Infra(group, Some(device)) => write!(f, "infra/{group}/{device}"),
        }
    }
}

text_serde!(DataPoint);

/// A data point or a pattern of them: `*` stands for any characters of a name, as in
/// `unencrypted/*`. `infra/GROUP` also names every device of the group.
///
/// ```
/// use vmkpi::name::{DataPoint, PointPattern};
/// # fn main() -> Result<(), vmkpi::name::NameError> {
/// let web: DataPoint = "unencrypted/web".parse()?;
/// assert!("unencrypted/*".parse::<PointPattern>()?.matches(&web));
/// assert!(!"encrypted/*".parse::<PointPattern>()?.matches(&web));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointPattern(DataPoint);

impl PointPattern {
    /// Whether `point` is one of those the pattern names.
    pub fn matches(&self, point: &DataPoint) -> bool {
        match (&self.0, point) {
            (DataPoint::Kpi(a, pattern), DataPoint::Kpi(b, name)) => {
                a == b && glob(pattern.as_str(), name.as_str())
            }
            (DataPoint::Infra(pattern, of), DataPoint::Infra(group, device)) => {
                glob(pattern.as_str(), group.as_str())
                    && of.as_ref().is_none_or(|of| {
                        device
                            .as_ref()
                            .is_some_and(|device| glob(of.as_str(), device.as_str()))
                    })
            }
            _ => false,
        }
    }

    /// Whether there can be a point that both patterns name.
    ///
    /// ```
    /// use vmkpi::name::PointPattern;
    /// # fn main() -> Result<(), vmkpi::name::NameError> {
    /// let (mine, theirs): (PointPattern, PointPattern) = ("unencrypted/web-*".parse()?, "unencrypted/*-load".parse()?);
    /// assert!(mine.overlaps(&theirs));
    /// assert!(!mine.overlaps(&"unencrypted/db".parse()?));
    /// # Ok(())
    /// # }
    /// ```
    pub fn overlaps(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (DataPoint::Kpi(a, mine), DataPoint::Kpi(b, theirs)) => {
                a == b && globs_overlap(mine.as_str(), theirs.as_str())
            }
            (DataPoint::Infra(mine, of), DataPoint::Infra(theirs, other)) => {
                globs_overlap(mine.as_str(), theirs.as_str())
                    // A group alone names its devices too.
                    && of.as_ref().zip(other.as_ref()).is_none_or(|(of, other)| {
                        globs_overlap(of.as_str(), other.as_str())
                    })
            }
            _ => false,
        }
    }

    /// The narrowest MQTT filter, below the topic of a specifier, of all points that the pattern names.
    pub fn topic_filter(&self) -> String {
        let plain = |label: &Label| !label.as_str().contains('*');
        match &self.0 {
            DataPoint::Kpi(area, name) if name.as_str().contains('*') => format!("{area}/#"),
            DataPoint::Infra(group, _) if !plain(group) => "infra/#".into(),
            DataPoint::Infra(group, device) if !device.as_ref().is_some_and(plain) => {
                format!("infra/{}/#", topic_level(group.as_str()))
            }
            point => point.topic_levels(),
        }
    }

    /// Whether the pattern can match KPIs (rather than infrastructure measurements).
    pub fn is_kpi(&self) -> bool {
        matches!(self.0, DataPoint::Kpi(..))
    }

    /// Whether every point it matches is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.is_encrypted()
    }
}

impl FromStr for PointPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for PointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_serde!(PointPattern);

/// Whether `name` matches `pattern`, where `*` stands for any characters. Linear in both for each
/// star: it only ever goes back to the last one.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Whether some name matches both patterns: from their ends, whether what is left of both does.
fn globs_overlap(mine: &str, theirs: &str) -> bool {
    let (mine, theirs) = (mine.as_bytes(), theirs.as_bytes());
    // Of what is left of `mine` from the row on: for each rest of `theirs`.
    let mut below: Vec<bool> = Vec::new();
    for m in (0..=mine.len()).rev() {
        let mut row = vec![false; theirs.len() + 1];
        for t in (0..=theirs.len()).rev() {
            row[t] = match (mine.get(m), theirs.get(t)) {
                (None, None) => true,
                (Some(b'*'), _) => below[t] || t < theirs.len() && row[t + 1],
                (_, Some(b'*')) => row[t + 1] || m < mine.len() && below[t],
                (a, b) => a == b && below[t + 1],
            };
        }
        below = row;
    }
    below[0]
}

/// One MQTT topic level: `+`, `#`, `/`, `%` and control characters percent-encoded (UTF-8 bytes,
/// RFC 3986 section 2.1).
///
/// ```
/// assert_eq!(vmkpi::name::topic_level("a/+/#"), "a%2F%2B%2F%23");
/// ```
pub fn topic_level(text: &str) -> String {
    let mut level = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '+' | '#' | '/' | '%') || c.is_control() {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                level.push_str(&format!("%{b:02X}"));
            }
        } else {
            level.push(c);
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kpi_names_are_legal_as_file_table_and_topic_level() {
        for good in [
            "web",
            "a\"; DROP TABLE x;--",
            "select",
            "größe",
            "a b",
            "a..%2f",
            "sqlite",
        ] {
            assert!(good.parse::<KpiName>().is_ok(), "{good:?}");
        }
        assert!("x".repeat(200).parse::<KpiName>().is_ok());
        for (bad, why) in [
            ("", NameError::Empty),
            ("..", NameError::Empty),
            (".x.swp", NameError::Scratch(".x.swp".into())),
            ("a/b", NameError::Character("a/b".into())),
            ("a\nb", NameError::Character("a\nb".into())),
            ("SQLite_master", NameError::Reserved("SQLite_master".into())),
        ] {
            assert_eq!(bad.parse::<KpiName>(), Err(why), "{bad:?}");
        }
        assert_eq!(
            "x".repeat(201).parse::<KpiName>(),
            Err(NameError::TooLong(201))
        );
    }

    #[test]
    fn patterns_match_within_their_area_only() {
        let m = |p: &str, d: &str| {
            p.parse::<PointPattern>()
                .unwrap()
                .matches(&d.parse().unwrap())
        };
        assert!(m("unencrypted/*", "unencrypted/web"));
        assert!(!m("unencrypted/*", "encrypted/web"));
        assert!(m("unencrypted/web-*-load", "unencrypted/web-1-load"));
        assert!(!m("unencrypted/web", "unencrypted/webx"));
        assert!(m("infra/*", "infra/block/vda"));
        assert!(m("infra/block", "infra/block/vda"));
        assert!(m("infra/block/vd*", "infra/block/vda"));
        assert!(!m("infra/block/vda", "infra/block"));
        assert!("nowhere/x".parse::<PointPattern>().is_err());
    }

    #[test]
    fn topic_levels_hide_what_mqtt_gives_a_meaning_to() {
        assert_eq!(topic_level("a/+/#"), "a%2F%2B%2F%23");
        assert_eq!(topic_level("100%"), "100%25");
        assert_eq!(topic_level("größe"), "größe");
    }

    #[test]
    fn a_filter_is_as_narrow_as_mqtt_allows() {
        for (pattern, filter) in [
            ("unencrypted/a+b", "unencrypted/a%2Bb"),
            ("unencrypted/web-*", "unencrypted/#"),
            ("infra/*", "infra/#"),
            ("infra/*/vda", "infra/#"),
            ("infra/block", "infra/block/#"),
            ("infra/block/vd*", "infra/block/#"),
            ("infra/block/vda", "infra/block/vda"),
        ] {
            let parsed: PointPattern = pattern.parse().unwrap();
            assert_eq!(parsed.topic_filter(), filter, "{pattern}");
        }
    }

    #[test]
    fn patterns_overlap_within_their_area_and_groups_with_their_devices() {
        let o = |a: &str, b: &str| {
            let (a, b): (PointPattern, PointPattern) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        assert!(o("unencrypted/*", "unencrypted/web"));
        assert!(!o("unencrypted/*", "encrypted/*"));
        assert!(o("infra/block", "infra/block/vda"));
        assert!(o("infra/*", "infra/block/vd*"));
        assert!(!o("infra/block/vda", "infra/block/vdb"));
        assert!(!o("infra/block", "infra/net"));
    }

    proptest! {
        #[test]
        fn globs_overlap_where_some_name_matches_both(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            // A shortest common name is no longer than both patterns together.
            let mut names = vec![String::new()];
            for at in 0.. {
                if names[at].len() == 8 {
                    break;
                }
                for c in ["a", "b"] {
                    names.push(names[at].clone() + c);
                }
            }
            let both = names.iter().any(|n| glob(&a, n) && glob(&b, n));
            prop_assert_eq!(globs_overlap(&a, &b), both);
        }

        #[test]
        fn glob_agrees_with_a_plain_recursive_matcher(p in "[ab*]{0,6}", n in "[ab]{0,8}") {
            fn plain(p: &[u8], n: &[u8]) -> bool {
                match (p.first(), n.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => plain(&p[1..], n) || (!n.is_empty() && plain(p, &n[1..])),
                    (Some(a), Some(b)) if a == b => plain(&p[1..], &n[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(&p, &n), plain(p.as_bytes(), n.as_bytes()));
        }
    }
}
