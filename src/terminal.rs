//! Text for terminals: ages, sizes, names that are cut, sentences that are wrapped.

use std::fmt;

/// The width that fits any terminal.
pub const WIDTH: usize = 80;

/// A duration in its largest unit.
pub fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// Bytes in the largest unit that they fill.
pub fn bytes(bytes: u64) -> String {
    let scaled = |unit: u64| {
        let tenths = bytes.saturating_mul(10) / unit;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => scaled(0x400) + " KiB",
        0x10_0000..0x4000_0000 => scaled(0x10_0000) + " MiB",
        _ => scaled(0x4000_0000) + " GiB",
    }
}

/// At most `width` characters; what was cut shows.
pub fn cut(text: &str, width: usize) -> String {
    match text.chars().count() <= width {
        true => text.into(),
        false => text.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// Writes words after `start`, at most [`WIDTH`] wide; what follows the first line is indented. A word that
/// is wider alone (a path) is left whole, to be copied.
///
/// # Errors
/// `out` does not take it.
pub fn wrap(out: &mut dyn fmt::Write, start: &str, text: &str) -> fmt::Result {
    let indent = start.chars().count();
    let mut at = indent;
    out.write_str(start)?;
    for word in text.split(' ') {
        let width = word.chars().count();
        if at > indent && at + 1 + width > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            at = indent;
        } else if at > indent {
            out.write_char(' ')?;
            at += 1;
        }
        out.write_str(word)?;
        at += width;
    }
    out.write_char('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_in_the_largest_unit_that_says_enough() {
        assert_eq!(
            [0, 119_999, 120_000, 7_200_000, 172_800_000].map(age),
            ["0s", "119s", "2m", "2h", "2d"]
        );
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(4 << 30), "4.0 GiB");
    }

    #[test]
    fn lines_are_wrapped_between_words_and_names_are_cut() {
        let mut out = String::new();
        wrap(&mut out, "=> ", &"word ".repeat(40)).unwrap();
        assert!(
            out.lines().all(|line| line.chars().count() <= WIDTH),
            "{out}"
        );
        assert!(
            out.lines().skip(1).all(|line| line.starts_with("   word")),
            "{out}"
        );
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
