//! The page that `vmkpi collect --listen` serves, in a real browser.
