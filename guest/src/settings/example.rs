//! The settings for people: an annotated file, and the rows of the reference.

use std::fmt::Write as _;

use super::units::duration;
use super::{Kind, SETTINGS, Setting, Settings, poll};
use crate::poller::Poll;

/// A file with every key, its help and its value in `settings`; a key without a value is commented out.
pub fn example(settings: &Settings) -> String {
    let mut text = String::from(
        "# vmkpi-guest reads this file as /etc/vmkpi/guest.toml. What is left out has the value shown here; VMKPI_GUEST_*\n\
         # in the environment and flags are stronger. `vmkpi-guest run --check` says what is wrong with it.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (of, name) = setting.section();
        if of != section {
            section = of;
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[{section}]");
        }
        let _ = write!(text, "\n# {}.\n", setting.help);
        let _ = match setting.get(settings) {
            Some(value) => writeln!(text, "{name} = {}", literal(setting.kind, &value)),
            None => writeln!(text, "# {name} = {}", placeholder(setting)),
        };
    }
    polls(&settings.polls, &mut text);
    text
}

fn polls(polls: &[Poll], text: &mut String) {
    text.push_str(
        "\n# A command whose output is stored, for applications that cannot write themselves. As many as there are.\n",
    );
    if polls.is_empty() {
        text.push_str("# [[poll]]\n");
        for (key, value, help) in poll::KEYS {
            let _ = writeln!(text, "# # {help}.\n# {key} = {value}");
        }
    }
    for poll in polls {
        let _ = writeln!(text, "[[poll]]");
        let _ = writeln!(text, "point = {}", quote(&poll.point.to_string()));
        let words: Vec<String> = poll.command.iter().map(|word| quote(word)).collect();
        let _ = writeln!(text, "command = [{}]", words.join(", "));
        let _ = writeln!(text, "interval = {}", quote(&duration(poll.interval)));
        let _ = writeln!(text, "timeout = {}", quote(&duration(poll.timeout)));
        if let Some(user) = &poll.user {
            let _ = writeln!(text, "user = {}", quote(user));
        }
    }
}

/// The reference: a line of a Markdown table for each setting, and for each key of `[[poll]]`.
pub fn reference() -> Vec<String> {
    let defaults = Settings::default();
    let mut lines: Vec<String> = SETTINGS
        .iter()
        .map(|setting| {
            let default = match setting.get(&defaults) {
                Some(value) => format!("`{}`", literal(setting.kind, &value)),
                None => String::new(),
            };
            let Setting {
                key, flag, help, ..
            } = setting;
            format!(
                "| `{key}` | `--{flag}` | `{}` | {default} | {help} |",
                setting.env()
            )
        })
        .collect();
    for (key, _, help) in poll::KEYS {
        lines.push(format!("| `poll.{key}` | | | | {help} |"));
    }
    lines
}

/// The value as TOML.
fn literal(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Integer | Kind::Boolean => value.into(),
        Kind::Text | Kind::Mode | Kind::Account => quote(value),
    }
}

fn placeholder(setting: &Setting) -> &'static str {
    match setting.key {
        "vm" => "\"shop-frontend-1\"",
        "primary_key_file" => "\"/etc/vmkpi/primary-key.pem\"",
        _ => "\"root\"",
    }
}

/// A basic string: the same escapes as JSON's.
fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
