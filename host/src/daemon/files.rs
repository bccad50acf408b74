//! Files of descriptors are looked at by a thread that may take its time.

use std::future::pending;
use std::path::PathBuf;

use tokio::task::JoinHandle;

use crate::descriptors::{Files, Read};

/// A look at the files, and what is known of them between looks.
#[derive(Debug, Default)]
pub(super) struct Looking {
    files: Files,
    look: Option<JoinHandle<(Files, Vec<Read>)>>,
}

impl Looking {
    /// Begins a look at `paths`, unless the one before is not done.
    pub(super) fn begin(&mut self, paths: Vec<PathBuf>) {
        if self.look.is_some() {
            return;
        }
        let mut files = std::mem::take(&mut self.files);
        let look = move || {
            let read = files.look(paths);
            (files, read)
        };
        self.look = Some(tokio::task::spawn_blocking(look));
    }

    /// What the look has found, when it is done; never without one. May be dropped at any point.
    pub(super) async fn done(&mut self) -> Vec<Read> {
        let Some(look) = &mut self.look else {
            return pending().await;
        };
        let found = look.await;
        self.look = None;
        let (files, read) = found.unwrap_or_default();
        self.files = files;
        read
    }
}
