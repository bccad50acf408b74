//! `[context]` in the configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use vmkpi::context::{Class, ClassError, INFRASTRUCTURE, SERVICE};
use vmkpi::settings::units::path;

use crate::context::ContextConfig;

/// The most classes.
const MAX_CLASSES: usize = 16;

/// What is set of the context partition.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextSettings {
    /// Where it is mounted; there is none without it.
    pub mount: Option<PathBuf>,
    /// The classes that are shown, the highest first.
    pub classes: Vec<Class>,
    /// Layers from the image itself.
    pub directories: BTreeMap<Class, PathBuf>,
    /// Where the hooks are.
    pub hooks: PathBuf,
    /// When a hook is killed.
    pub hook_timeout: Duration,
    /// How long a layer is shown that has gone.
    pub linger: Duration,
    /// How often drives are asked.
    pub poll_interval: Duration,
}

impl Default for ContextSettings {
    fn default() -> Self {
        let classes = [INFRASTRUCTURE, SERVICE];
        Self {
            mount: None,
            classes: classes.iter().flat_map(|class| class.parse()).collect(),
            directories: BTreeMap::new(),
            hooks: "/etc/vmkpi/context.d".into(),
            hook_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(5),
            poll_interval: Duration::from_millis(100),
        }
    }
}

impl ContextSettings {
    /// What a run is told, beside a KPI partition at `kpi`.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub(super) fn config(&self, kpi: &Path) -> anyhow::Result<Option<ContextConfig>> {
        let Some(mount) = &self.mount else {
            return Ok(None);
        };
        if mount.starts_with(kpi) || kpi.starts_with(mount) {
            bail!(
                "context.mount {} and mount {} are in each other's way: mount them side by side",
                mount.display(),
                kpi.display()
            );
        }
        for class in self.directories.keys() {
            if !self.classes.contains(class) {
                bail!(
                    "context.directories names class {class}, and context.classes does not: add it there"
                );
            }
        }
        let mut own = self.directories.values().chain([&self.hooks]);
        if own.any(|directory| directory.starts_with(mount)) {
            bail!(
                "context.directories and context.hooks are the image's: name none in {}",
                mount.display()
            );
        }
        Ok(Some(ContextConfig {
            mount: mount.clone(),
            classes: self.classes.clone(),
            directories: self.directories.clone(),
            hooks: self.hooks.clone(),
            hook_timeout: self.hook_timeout,
            linger: self.linger,
            poll_interval: self.poll_interval,
            sys: "/sys/class/block".into(),
            dev: "/dev".into(),
        }))
    }

    /// Adds `CLASS=DIR`, in the place of that class' directory.
    pub(super) fn add_directory(&mut self, text: &str) -> Result<(), String> {
        let (class, directory) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not CLASS=DIR"))?;
        let class = class.parse().map_err(|e: ClassError| e.to_string())?;
        self.directories.insert(class, path(directory)?);
        Ok(())
    }

    /// The directories, a line each.
    pub(super) fn show_directories(&self) -> String {
        let line =
            |(class, directory): (&Class, &PathBuf)| format!("{class}={}", directory.display());
        let lines: Vec<String> = self.directories.iter().map(line).collect();
        lines.join("\n")
    }
}

/// Reads class names with commas between.
pub(super) fn classes(text: &str) -> Result<Vec<Class>, String> {
    let mut classes: Vec<Class> = Vec::new();
    for name in text.split(',') {
        let class = name.trim().parse().map_err(|e: ClassError| e.to_string())?;
        if classes.contains(&class) {
            return Err(format!("{class} is named twice"));
        }
        classes.push(class);
    }
    match classes.len() <= MAX_CLASSES {
        true => Ok(classes),
        false => Err(format!("{} classes; at most {MAX_CLASSES}", classes.len())),
    }
}

/// Class names as they are read.
pub(super) fn show_classes(classes: &[Class]) -> String {
    let names: Vec<&str> = classes.iter().map(Class::as_str).collect();
    names.join(",")
}
