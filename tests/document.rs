//! A page of the documentation as its reader meets it: blocks, links and headings. No I/O.

/// What stands above a block that is not run, and gives the reason: `<!-- not run: needs systemd; shown by FILE::TEST -->`.
const EXCUSE: &str = "<!-- not run: ";
/// Between the reason and who shows it all the same.
const SHOWN_BY: &str = "; shown by ";

/// A fenced block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// The word behind the fence: `sh`, `toml`; nothing for plain text.
    pub language: String,
    /// What is between the fences, without the indentation of the first.
    pub body: String,
    /// Why it is not run, and who shows it all the same.
    pub excuse: Option<Excuse>,
    /// Of commands: what they print, the plain block that follows at once.
    pub prints: Vec<String>,
}

/// Why a block is not run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excuse {
    /// In words.
    pub reason: String,
    /// The tests that show it all the same: FILE or FILE::TEST.
    pub shown_by: Vec<String>,
}

/// A page.
pub struct Page {
    /// Its path in the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Page {
    /// The page's blocks, in order; the output of commands is within theirs.
    pub fn blocks(&self) -> Vec<Block> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut at = 0;
        let mut before_end = None;
        while let Some(line) = lines.get(at) {
            let Some(language) = line.trim_start().strip_prefix("```") else {
                at += 1;
                continue;
            };
            let (body, end) = body(&lines, at);
            let follows = before_end == Some(at);
            match blocks.last_mut() {
                Some(commands) if follows && language.is_empty() && commands.language == "sh" => {
                    commands.prints = body;
                }
                _ => blocks.push(Block {
                    line: at + 1,
                    language: language.trim().to_owned(),
                    body: body.join("\n"),
                    excuse: lines[..at].last().and_then(|above| excuse(above)),
                    prints: Vec::new(),
                }),
            }
            at = end + 1;
            before_end = Some(at);
        }
        blocks
    }

    /// The page without its blocks.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let numbered = self.text.lines().enumerate();
        numbered
            .filter(|(_, line)| {
                let fence = line.trim_start().starts_with("```");
                inside ^= fence;
                !inside && !fence
            })
            .map(|(index, line)| (index + 1, line))
            .collect()
    }

    /// Where its links lead, with the line.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (number, line) in self.prose() {
            let line = without_code(line);
            for part in line.split("](").skip(1) {
                if let Some((target, _)) = part.split_once(')') {
                    links.push((number, target.to_owned()));
                }
            }
        }
        links
    }

    /// What its headings are called in links, as forges make it of their text.
    pub fn anchors(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut anchors: Vec<String> = Vec::new();
        for (_, line) in self.prose() {
            let Some(heading) = line.starts_with('#').then(|| line.trim_start_matches('#')) else {
                continue;
            };
            let name = anchor(heading);
            // Of headings with the same words the later ones are numbered.
            let twins = names.iter().filter(|earlier| **earlier == name).count();
            anchors.push(match twins {
                0 => name.clone(),
                n => format!("{name}-{n}"),
            });
            names.push(name);
        }
        anchors
    }

    /// What stands between single backticks in the text.
    pub fn spans(&self) -> Vec<(usize, String)> {
        let mut spans = Vec::new();
        for (number, line) in self.prose() {
            let parts = line.split('`').enumerate();
            spans.extend(
                parts
                    .filter(|(i, _)| i % 2 == 1)
                    .map(|(_, s)| (number, s.to_owned())),
            );
        }
        spans
    }
}

/// The lines between the fence at `open` and its end, and where that is.
fn body(lines: &[&str], open: usize) -> (Vec<String>, usize) {
    let indent = lines[open].len() - lines[open].trim_start().len();
    let rest = &lines[open + 1..];
    let length = rest
        .iter()
        .position(|line| line.trim() == "```")
        .unwrap_or(rest.len());
    let shift = |line: &&str| line.get(indent..).unwrap_or("").to_owned();
    (
        rest[..length].iter().map(shift).collect(),
        open + 1 + length,
    )
}

fn excuse(above: &str) -> Option<Excuse> {
    let text = above.trim().strip_prefix(EXCUSE)?.strip_suffix(" -->")?;
    let (reason, tests) = text.split_once(SHOWN_BY).unwrap_or((text, ""));
    let tests = tests.split(", ").filter(|test| !test.is_empty());
    Some(Excuse {
        reason: reason.to_owned(),
        shown_by: tests.map(str::to_owned).collect(),
    })
}

/// A line without what is between backticks: no link is meant there.
fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    let kept = parts.filter(|(i, _)| i % 2 == 0).map(|(_, part)| part);
    kept.collect::<Vec<_>>().join("code")
}

/// A heading's anchor: small letters, digits, `-` and `_`; of a link its text.
fn anchor(heading: &str) -> String {
    let mut text = heading.trim().to_owned();
    while let Some((before, rest)) = text.split_once("](") {
        let after = rest.split_once(')').map_or("", |(_, after)| after);
        text = format!("{before}{after}");
    }
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}
