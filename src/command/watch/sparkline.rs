//! The last values of a column as a line of characters, the lowest of them at the bottom and the highest at the top. A
//! value that is missing is a blank. Pure.

use std::collections::VecDeque;

/// The most values remembered of a column: no sparkline is wider.
pub const MAX_VALUES: usize = 32;

/// From low to high. A terminal that knows them draws bars; others tell more ink from less.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '#', '@'];

/// How sparklines are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    #[default]
    None,
    /// With characters that every terminal has.
    Ascii,
    /// With block characters.
    Blocks,
}

impl Style {
    /// What fits a terminal in whose environment these variables are (locale(7)).
    pub fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
        let locale = locale.unwrap_or_default().to_lowercase().replace('-', "");
        match locale.contains("utf8") {
            true => Self::Blocks,
            false => Self::Ascii,
        }
    }

    /// What fits ours.
    pub fn of_environment() -> Self {
        Self::of_locale(|name| std::env::var(name).ok())
    }

    fn levels(self) -> Option<&'static [char; 8]> {
        match self {
            Self::None => None,
            Self::Ascii => Some(&ASCII),
            Self::Blocks => Some(&BLOCKS),
        }
    }
}

/// The last values of a column.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Option<f64>>);

impl Recent {
    /// Takes a value; one that is no number is a blank. A column that never had a number has no line.
    pub fn push(&mut self, value: Option<f64>) {
        let value = value.filter(|value| value.is_finite());
        if value.is_none() && self.0.is_empty() {
            return;
        }
        if self.0.len() == MAX_VALUES {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// Values are missing here: one blank, however many they are.
    pub fn interrupt(&mut self) {
        if self.0.back().is_some_and(Option::is_some) {
            self.push(None);
        }
    }

    /// The last of them in at most `width` characters.
    pub fn draw(&self, width: usize, style: Style) -> String {
        let Some(levels) = style.levels() else {
            return String::new();
        };
        let shown = self.0.range(self.0.len().saturating_sub(width)..);
        let known = || shown.clone().flatten().copied();
        let (low, high) = (
            known().fold(f64::INFINITY, f64::min),
            known().fold(f64::NEG_INFINITY, f64::max),
        );
        let draw = |value: &Option<f64>| value.map_or(' ', |v| levels[level(v, low, high)]);
        shown.clone().map(draw).collect()
    }
}

/// Which of the eight levels a value is between these two; in the middle where all are alike.
fn level(value: f64, low: f64, high: f64) -> usize {
    if low >= high {
        return 3;
    }
    // Halves, as the whole span of two doubles may be no double.
    let part = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
    ((part * 8.0) as usize).min(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[Option<f64>]) -> Recent {
        let mut recent = Recent::default();
        values.iter().for_each(|value| recent.push(*value));
        recent
    }

    fn line(values: &[f64], width: usize) -> String {
        let values: Vec<_> = values.iter().copied().map(Some).collect();
        of(&values).draw(width, Style::Blocks)
    }

    #[test]
    fn the_lowest_is_at_the_bottom_and_the_highest_at_the_top() {
        let eight = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(line(&eight, 8), "▁▂▃▄▅▆▇█");
        assert_eq!(line(&[7.0, 0.0, 3.5], 8), "█▁▅");
        assert_eq!(line(&[-5.0, -5.0], 8), "▄▄", "all alike");
        assert_eq!(line(&[f64::MIN, 0.0, f64::MAX], 8), "▁▅█");
        assert_eq!(line(&[], 8), "");
    }

    #[test]
    fn only_the_last_are_shown_and_scaled_by_themselves() {
        assert_eq!(line(&[1e9, 0.0, 1.0], 2), "▁█");
        let many: Vec<_> = (0..1000).map(f64::from).collect();
        let recent = of(&many.into_iter().map(Some).collect::<Vec<_>>());
        assert_eq!(recent.0.len(), MAX_VALUES);
        assert_eq!(recent.draw(100, Style::Blocks).chars().count(), MAX_VALUES);
        assert_eq!(recent.draw(0, Style::Blocks), "");
    }

    #[test]
    fn what_is_missing_is_blank() {
        let mut recent = of(&[None, Some(1.0), None, Some(f64::NAN), Some(2.0)]);
        assert_eq!(
            recent.draw(8, Style::Ascii),
            ".  @",
            "none before the first"
        );
        recent.interrupt();
        recent.interrupt();
        recent.push(Some(1.0));
        assert_eq!(recent.draw(8, Style::Ascii), ".  @ .", "one for a gap");
        let mut never = Recent::default();
        never.interrupt();
        assert_eq!(never.draw(8, Style::Blocks), "");
        assert_eq!(recent.draw(8, Style::None), "");
    }

    #[test]
    fn the_first_variable_that_is_set_says_what_the_terminal_knows() {
        let of = |set: &[(&str, &str)]| {
            Style::of_locale(|name| {
                let found = set.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("LANG", "de_DE.UTF-8")]), Style::Blocks);
        assert_eq!(of(&[("LANG", "C.utf8"), ("LC_ALL", "")]), Style::Blocks);
        assert_eq!(of(&[("LANG", "C.UTF-8"), ("LC_ALL", "C")]), Style::Ascii);
        assert_eq!(of(&[("LC_CTYPE", "en_US.ISO-8859-1")]), Style::Ascii);
        assert_eq!(of(&[]), Style::Ascii);
    }
}
