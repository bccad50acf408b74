//! Bars with error bars, as SVG. Pure.

use std::fmt::Write as _;

/// A bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What stands below it.
    pub label: String,
    /// Its height, and what stands above it.
    pub value: f64,
    /// How far the error bar reaches up and down.
    pub error: f64,
}

/// Bars that share a scale.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What stands above them.
    pub title: String,
    /// The bars, from left to right.
    pub bars: Vec<Bar>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
/// Where the bars stand, and where the highest may end.
const FLOOR: f64 = 250.0;
const TOP: f64 = 60.0;

/// The panels side by side.
pub fn draw(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        draw_panel(&mut out, panel, WIDTH * n as f64);
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(out: &mut String, panel: &Panel, left: f64) {
    let highest = panel
        .bars
        .iter()
        .map(|bar| bar.value + bar.error)
        .fold(0.0, f64::max);
    let scale = if highest > 0.0 {
        (FLOOR - TOP) / highest
    } else {
        0.0
    };
    let step = (WIDTH - 40.0) / panel.bars.len().max(1) as f64;
    text(out, left + WIDTH / 2.0, 24.0, &panel.title);
    line(out, (left + 20.0, FLOOR), (left + WIDTH - 20.0, FLOOR));
    for (n, bar) in panel.bars.iter().enumerate() {
        let middle = left + 20.0 + step * (n as f64 + 0.5);
        draw_bar(out, bar, (middle, step * 0.5), scale);
    }
}

fn draw_bar(out: &mut String, bar: &Bar, (middle, width): (f64, f64), scale: f64) {
    let at = |value: f64| FLOOR - value * scale;
    let (top, high, low) = (
        at(bar.value),
        at(bar.value + bar.error),
        at((bar.value - bar.error).max(0.0)),
    );
    let _ = writeln!(
        out,
        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"#4a7ab5\"/>",
        middle - width / 2.0,
        FLOOR - top
    );
    line(out, (middle, high), (middle, low));
    line(out, (middle - 6.0, high), (middle + 6.0, high));
    line(out, (middle - 6.0, low), (middle + 6.0, low));
    text(out, middle, high - 8.0, &format!("{:.1}", bar.value));
    text(out, middle, FLOOR + 18.0, &bar.label);
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_with_its_error_reaches_the_top_and_others_are_to_scale() {
        let bar = |value, error| Bar {
            label: "a < b".into(),
            value,
            error,
        };
        let bars = vec![bar(90.0, 10.0), bar(50.0, 0.0)];
        let svg = draw(&[Panel {
            title: "t".into(),
            bars,
        }]);
        assert!(svg.contains("y1=\"60.0\""), "{svg}");
        // Half of what is between floor and top.
        assert!(svg.contains("height=\"95.0\""), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains(">90.0<"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_drawn_flat() {
        let bars = vec![Bar {
            label: "x".into(),
            value: 0.0,
            error: 0.0,
        }];
        let svg = draw(&[Panel {
            title: String::new(),
            bars,
        }]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
