//! The Debian packages, installed, upgraded and removed in a clean root.
