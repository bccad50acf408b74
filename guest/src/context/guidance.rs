//! What the context says that the program itself goes by. The context partition sets it, the link reads it: neither
//! knows the other.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// What the files of the merged tree hold, as they are: whoever goes by it judges it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guidance {
    /// The generation of the context in which it was so; 0 before any was read.
    pub generation: u64,
    /// The content of [`vmkpi::context::ENDPOINT_FILE`], if it is there and short enough to be one.
    pub endpoint: Option<String>,
    /// The content of [`vmkpi::context::LEGISLATION_FILE`], likewise.
    pub legislation: Option<String>,
}

/// The last guidance, and a bell that rings when it changes.
#[derive(Debug)]
pub struct Guide {
    guidance: Mutex<Guidance>,
    bell: EventFd,
}

impl Guide {
    /// No guidance yet.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            guidance: Mutex::default(),
            bell: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Sets it, and rings.
    pub fn set(&self, guidance: Guidance) {
        *self.guidance.lock().unwrap_or_else(PoisonError::into_inner) = guidance;
        // It can only be full of rings that nobody has heard.
        let _ = self.bell.write(1);
    }

    /// The last one.
    pub fn get(&self) -> Guidance {
        self.guidance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops the bell; says whether it rang.
    pub fn heard(&self) -> bool {
        self.bell.read().is_ok()
    }
}

impl AsFd for Guide {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
