//! What the context says that the program itself goes by. The context partition sets it, the link reads it: neither
//! knows the other.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// What the files of the merged tree hold, as they are: whoever goes by it judges it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guidance {
    /// The content of [`vmkpi::context::ENDPOINT_FILE`], if it is there and short enough to be one.
    pub endpoint: Option<String>,
    /// The content of [`vmkpi::context::LEGISLATION_FILE`], likewise.
    pub legislation: Option<String>,
}

/// The last guidance, a bell that rings when it changes, and a way to say that another may be due.
pub struct Guide {
    guidance: Mutex<Guidance>,
    bell: EventFd,
    hurry: OnceLock<Hurry>,
}

/// What is done when another guidance may be due.
type Hurry = Box<dyn Fn() + Send + Sync>;

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide")
            .field("guidance", &self.guidance)
            .finish_non_exhaustive()
    }
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
            hurry: OnceLock::new(),
        })
    }

    /// What [`Guide::hang_up`] does from now on.
    pub fn on_hang_up(&self, hurry: impl Fn() + Send + Sync + 'static) {
        // Set once: there is one context partition.
        let _ = self.hurry.set(Box::new(hurry));
    }

    /// The host has hung up, as it does when the VM moves: a medium may be about to change, and is looked for often.
    pub fn hang_up(&self) {
        if let Some(hurry) = self.hurry.get() {
            hurry();
        }
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
