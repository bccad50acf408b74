//! `vmkpi-guest context`: asks the program that runs, and shows what it says.

mod table;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use vmkpi::clock::Timestamp;

use super::report::{Answer, ContextStatus};
use crate::cli::Question;
use crate::settings::Settings;
use crate::status::ask_context;

/// How often `apply` looks whether the hooks have run.
const LOOK: Duration = Duration::from_millis(50);

/// How long it looks: all hooks may take their time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is printed.
#[derive(Debug)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// Whether what was asked for went well: the exit status.
    pub well: bool,
}

/// Asks.
///
/// # Errors
/// The program does not run, or has no context partition.
pub fn context(settings: &Settings, question: &Question, json: bool) -> anyhow::Result<Shown> {
    let state = &settings.state;
    let mut well = true;
    let answer = match question {
        Question::Layers => ask_context(state, "context")?,
        Question::Changes => ask_context(state, "changes")?,
        Question::Where(path) => {
            let answer = ask_context(
                state,
                &format!("where {}", path_in(&status(state)?.mount, path)?),
            )?;
            well = !matches!(&answer, Answer::Where(holders) if holders.is_empty());
            answer
        }
        Question::Apply => {
            let status = apply(state)?;
            well = status.hooks.outcomes.iter().all(|outcome| outcome.ok)
                && status.problems.is_empty();
            Answer::Context(Box::new(status))
        }
    };
    let text = match json {
        true => to_json(&answer)? + "\n",
        false => table::render(&answer, Timestamp::now()),
    };
    Ok(Shown { text, well })
}

fn to_json(answer: &Answer) -> serde_json::Result<String> {
    match answer {
        Answer::Context(status) => serde_json::to_string(status),
        Answer::Where(holders) => serde_json::to_string(&serde_json::json!({ "layers": holders })),
        Answer::Changes(changes) => {
            serde_json::to_string(&serde_json::json!({ "changes": changes }))
        }
        other => serde_json::to_string(other),
    }
}

fn status(state: &Path) -> anyhow::Result<ContextStatus> {
    match ask_context(state, "context")? {
        Answer::Context(status) => Ok(*status),
        other => bail!("the program that runs answers something else: {other:?}"),
    }
}

/// Has everything read and told, and waits until it was.
fn apply(state: &Path) -> anyhow::Result<ContextStatus> {
    let Answer::Apply(number) = ask_context(state, "apply")? else {
        bail!("the program that runs answers something else than was asked");
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let status = status(state)?;
        if status.hooks.told >= number {
            return Ok(status);
        }
        if Instant::now() > until {
            bail!("the hooks have not ended within an hour; see `vmkpi-guest context`");
        }
        std::thread::sleep(LOOK);
    }
}

/// A path as layers have it, from one below the mount or below its top.
fn path_in(mount: &Path, path: &str) -> anyhow::Result<String> {
    let below = Path::new(path).strip_prefix(mount);
    let below = below.ok().and_then(Path::to_str).unwrap_or(path);
    let clean = below.trim_matches('/');
    match clean.is_empty() || clean.contains('\n') {
        true => bail!("{path:?} is no path of a file or directory in a layer"),
        false => Ok(clean.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_be_absolute() {
        let mount = Path::new("/context");
        for (path, expected) in [
            ("/context/a/b", "a/b"),
            ("a/b/", "a/b"),
            ("/a", "a"),
            ("contexts", "contexts"),
        ] {
            assert_eq!(path_in(mount, path).unwrap(), expected);
        }
        for none in ["/context", "/context/", "", "/", "a\nb"] {
            assert!(path_in(mount, none).is_err(), "{none:?}");
        }
    }
}
