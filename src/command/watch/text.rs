//! Text from elsewhere, made fit for a terminal: no control character, no invisible trick, exactly
//! so wide as there is room.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use vmkpi::value::Value;

/// The text with everything that could steer a terminal or hide other text replaced.
pub fn safe(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_hidden(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Control characters, format characters that turn or hide text (bidirectional controls, zero-width
/// and tag characters) and line separators.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text in exactly `width` columns: cut with an ellipsis, or filled with blanks.
pub fn fit(text: &str, width: usize) -> String {
    let text = safe(text);
    let full = text.width();
    if full <= width {
        return text + &" ".repeat(width - full);
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        out.push(c);
        used += wide;
    }
    if used < width {
        out.push('…');
        used += 1;
    }
    out + &" ".repeat(width.saturating_sub(used))
}

/// A value as people read it.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Integer(i) => i.to_string(),
        Value::Real(r) => number(*r),
        Value::Text(text) => safe(&text.chars().take(200).collect::<String>()),
    }
}

/// A number with at most six decimals, and no more of them than it has.
pub fn number(number: f64) -> String {
    if number != 0.0 && !(1e-4..1e15).contains(&number.abs()) {
        return format!("{number:e}");
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "{number:.6}");
    let trimmed = text.trim_end_matches('0').trim_end_matches('.');
    trimmed.to_owned()
}

/// How long ago, in one unit.
pub fn age(seconds: f64) -> String {
    match seconds.max(0.0) {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        for bad in [
            "\x1b[2J",
            "a\nb",
            "\r",
            "\u{9b}31m",
            "\u{202e}abc",
            "\u{200b}",
            "\u{e0041}",
        ] {
            let text = safe(bad);
            assert!(
                text.contains('\u{fffd}') && !text.contains(is_hidden),
                "{bad:?} -> {text:?}"
            );
        }
        assert_eq!(safe("Grüße 漢字 🙂"), "Grüße 漢字 🙂");
    }

    #[test]
    fn text_takes_exactly_the_room_it_is_given() {
        for (text, width) in [
            ("abc", 5),
            ("abcdef", 4),
            ("漢字漢字", 5),
            ("漢", 1),
            ("", 3),
            ("x", 0),
        ] {
            assert_eq!(fit(text, width).width(), width, "{text:?} in {width}");
        }
        assert_eq!(fit("abcdef", 4), "abc…");
    }

    #[test]
    fn numbers_are_short_and_keep_their_meaning() {
        for (n, text) in [
            (41.5, "41.5"),
            (0.0, "0"),
            (-3.0, "-3"),
            (1e300, "1e300"),
            (0.1 + 0.2, "0.3"),
        ] {
            assert_eq!(number(n), text);
        }
        assert_eq!(age(0.04), "0.0 s");
        assert_eq!(age(7200.0), "2 h");
    }
}
