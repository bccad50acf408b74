//! A wall clock of a program's own (libfaketime): it can be set while the program runs, and no other clock of
//! the machine moves. The monotonic clock and the times of files stay as they are.

use std::io;
use std::path::{Path, PathBuf};

/// A clock that programs read.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right so far, kept in `file`. `None` where libfaketime is not installed.
    pub fn new(file: &Path) -> Option<io::Result<Self>> {
        let clock = Self {
            library: library()?,
            file: file.to_owned(),
        };
        Some(clock.set("+0").map(|()| clock))
    }

    /// What a program's environment must have to read it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut variables: Vec<_> = [
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
        .map(own)
        .into();
        let paths = [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
        ];
        let paths = paths.map(|(name, path)| (name.to_owned(), path.display().to_string()));
        variables.extend(paths);
        variables
    }

    /// Sets it so far from the right time, such as `+5y` or `-3s`; the next reading sees it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, offset: &str) -> io::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        std::fs::rename(new, &self.file)
    }
}

/// The one for programs with threads: in the other, two that read the clock while it is set tear its offset.
fn library() -> Option<PathBuf> {
    let library = "faketime/libfaketimeMT.so.1";
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
    ];
    let mut places = folders.iter().map(|folder| Path::new(folder).join(library));
    places.find(|place| place.exists())
}

/// What libfaketime leaves of a program that was killed.
pub fn forget(pid: u32) {
    for name in [
        format!("faketime_shm_{pid}"),
        format!("sem.faketime_sem_{pid}"),
    ] {
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}
