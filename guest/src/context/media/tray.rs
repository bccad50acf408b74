//! Whether there is a medium in a drive at all: reading an empty one fails as a broken one does, and fills the
//! kernel's log.

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// What a drive says, `CDROM_DRIVE_STATUS` (linux/cdrom.h).
const NO_DISC: i32 = 1;
const TRAY_OPEN: i32 = 2;

/// Of the slot that the drive is at.
const CURRENT_SLOT: i32 = i32::MAX;

#[expect(
    unsafe_code,
    reason = "no file of sysfs says it, only this ioctl, and it takes a number, no pointer"
)]
mod ioctl {
    nix::ioctl_write_int_bad!(drive_status, 0x5326);

    /// The status of the drive; `None`: it is no drive, or does not say.
    pub fn status(fd: std::os::fd::RawFd) -> Option<i32> {
        // SAFETY: the request reads and writes no memory of ours, and the descriptor is open.
        unsafe { drive_status(fd, super::CURRENT_SLOT) }.ok()
    }
}

/// Whether the drive says that there is none. What is no drive does not say so.
pub fn is_empty(drive: &File) -> bool {
    matches!(ioctl::status(drive.as_raw_fd()), Some(NO_DISC | TRAY_OPEN))
}
