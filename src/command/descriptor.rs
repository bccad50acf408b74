//! `vmkpi descriptor`: looks at VM descriptors before a host does.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use vmkpi::descriptor::{
    Descriptor, DescriptorError, Format as Delivery, MAX_DESCRIPTOR_BYTES, Spelling,
};

use super::print::Console;
use super::{Failure, Format, Outcome};

/// What can be done with a descriptor.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Say whether a descriptor is valid: its normal form, or every error with line, key and reason.
    ///
    /// Exit status: 0 (valid), 1 (not valid), 2 (it cannot be read).
    Check(Args),
    /// Write a descriptor in another spelling. What it says stays the same, to its revision.
    ///
    /// Exit status: 0, 1 (it is not valid), 2 (it cannot be read).
    Convert(ConvertArgs),
}

/// What to convert, and to what.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi descriptor convert shop-frontend.toml --to ovf > shop-frontend.ovf
  virsh metadata VM https://vmkpi.org/xmlns/monitoring/v1 --key vmkpi --live --config \\
      --set \"$(vmkpi descriptor convert shop-frontend.toml --to xml)\"")]
pub struct ConvertArgs {
    /// A file, by its ending JSON (.json), libvirt metadata (.xml), OVF (.ovf) or TOML; - reads standard input.
    file: PathBuf,
    /// How it is spelled, whatever the file is called.
    #[arg(long, value_enum, value_name = "SPELLING")]
    spelling: Option<SpellingArg>,
    /// The spelling to write.
    #[arg(long, value_enum, value_name = "SPELLING")]
    to: SpellingArg,
}

/// Which descriptor, and how to show the answer.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vmkpi descriptor check shop-frontend.toml
  virsh metadata VM https://vmkpi.org/xmlns/monitoring/v1 | vmkpi descriptor check - --spelling xml")]
pub struct Args {
    /// A file, by its ending JSON (.json), libvirt metadata (.xml), OVF (.ovf) or TOML; - reads standard input.
    file: PathBuf,
    /// How it is spelled, whatever the file is called.
    #[arg(long, value_enum, value_name = "SPELLING")]
    spelling: Option<SpellingArg>,
    /// For people, or one JSON object.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SpellingArg {
    Toml,
    Json,
    Xml,
    Ovf,
}

impl From<SpellingArg> for Spelling {
    fn from(arg: SpellingArg) -> Self {
        match arg {
            SpellingArg::Toml => Self::Toml,
            SpellingArg::Json => Self::Json,
            SpellingArg::Xml => Self::Xml,
            SpellingArg::Ovf => Self::Ovf,
        }
    }
}

#[derive(Serialize)]
struct Valid<'a> {
    valid: bool,
    revision: String,
    descriptor: &'a Descriptor,
}

#[derive(Serialize)]
struct Invalid<'a> {
    valid: bool,
    errors: Vec<Problem<'a>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    line: Option<usize>,
    key: &'a str,
    message: &'a str,
}

/// Runs the command.
pub fn run(command: &Command, console: &mut Console) -> Outcome {
    match command {
        Command::Check(args) => match parse(&args.file, args.spelling)? {
            Ok(descriptor) => Ok(show_valid(&descriptor, args.format, console)?),
            Err(errors) => {
                show_errors(&args.file, &errors, args.format, console)?;
                console.flush()?;
                Err(Failure::No)
            }
        },
        Command::Convert(args) => match parse(&args.file, args.spelling)? {
            Ok(descriptor) => {
                let text = descriptor.write(args.to.into());
                Ok(console.line(text.trim_end())?)
            }
            Err(errors) => {
                // Standard output may be a file by now.
                for error in errors {
                    console.say(&format!("{}: {error}", args.file.display()));
                }
                Err(Failure::No)
            }
        },
    }
}

type Parsed = Result<Descriptor, Vec<DescriptorError>>;

fn parse(file: &Path, spelling: Option<SpellingArg>) -> Result<Parsed, Failure> {
    let text = read(file).map_err(Failure::Usage)?;
    let spelling = spelling.map_or_else(|| Spelling::of_path(file), Into::into);
    let beside = file.parent().unwrap_or(Path::new("")).to_owned();
    let read_key = |path: &Path| std::fs::read_to_string(beside.join(path));
    Ok(Descriptor::parse(&text, spelling, &read_key))
}

/// The file's text; one byte more than allowed is read, so that the validator says it is too long.
fn read(file: &Path) -> anyhow::Result<String> {
    let limit = MAX_DESCRIPTOR_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let what = if file == Path::new("-") {
        "standard input".into()
    } else {
        file.display().to_string()
    };
    if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    }
    .with_context(|| what.clone())?;
    String::from_utf8(bytes).with_context(|| format!("{what} is not UTF-8"))
}

fn show_valid(
    descriptor: &Descriptor,
    format: Format,
    console: &mut Console,
) -> anyhow::Result<()> {
    if format == Format::Json {
        let valid = Valid {
            valid: true,
            revision: descriptor.revision(),
            descriptor,
        };
        return Ok(console.line(&serde_json::to_string(&valid)?)?);
    }
    console.line(&format!("valid, revision {}", descriptor.revision()))?;
    console.line(&format!("vm            {}", descriptor.vm))?;
    if let Some(service) = &descriptor.service {
        console.line(&format!("service       {service}"))?;
    }
    console.line(&format!("primary site  {}", descriptor.primary_site))?;
    for confirm in &descriptor.confirm {
        console.line(&format!("confirmed by  {}", confirm.name))?;
    }
    for monitor in &descriptor.monitors {
        let format = match monitor.format {
            Delivery::Raw => "raw",
            Delivery::Processed(function) => function.as_str(),
        };
        console.line(&format!(
            "monitor       {}: {}, {format}, sampled {}, delivered {}",
            monitor.id,
            monitor.point,
            every(monitor.interval_ms, "as often as possible"),
            every(monitor.delivery_ms, "at once"),
        ))?;
        if let Some(when) = &monitor.when {
            let when: Vec<&str> = when.as_str().split_whitespace().collect();
            console.line(&format!("              when {}", when.join(" ")))?;
        }
    }
    Ok(())
}

fn every(ms: u64, zero: &str) -> String {
    match ms {
        0 => zero.into(),
        ms if ms % 1000 == 0 => format!("every {} s", ms / 1000),
        ms => format!("every {ms} ms"),
    }
}

fn show_errors(
    file: &Path,
    errors: &[DescriptorError],
    format: Format,
    console: &mut Console,
) -> anyhow::Result<()> {
    if format == Format::Json {
        let errors = errors.iter().map(problem).collect();
        let line = serde_json::to_string(&Invalid {
            valid: false,
            errors,
        })?;
        return Ok(console.line(&line)?);
    }
    for error in errors {
        console.line(&format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

fn problem(error: &DescriptorError) -> Problem<'_> {
    Problem {
        line: error.line,
        key: &error.key,
        message: &error.message,
    }
}
