//! What the kernel says of drives that come, go, or have another medium (uevents, over netlink).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

/// The kernel's own messages; udev's are another group's.
const KERNEL_GROUP: u32 = 1;

/// The longest message: the kernel's buffer (`UEVENT_BUFFER_SIZE`) and the headline before it.
const MAX_MESSAGE: usize = 8 << 10;

/// What a message says of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// Its kernel name.
    pub drive: String,
    /// Whether its medium changed.
    pub media_change: bool,
}

/// The kernel's messages.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens.
    ///
    /// # Errors
    /// It is not allowed here.
    pub fn listen() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(fd))
    }

    /// The messages of drives since the last time. Whether some are missing does not matter: who asks looks at the
    /// drives' counters too.
    pub fn take(&self) -> Vec<Uevent> {
        let (mut found, mut message) = (Vec::new(), [0; MAX_MESSAGE]);
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut message) {
                // Anybody may send to the group in a namespace of his own; the kernel's port is 0.
                Ok((length, sender)) if sender.is_none_or(|sender| sender.pid() == 0) => {
                    found.extend(parse(&message[..length]));
                }
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(_) => return found,
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a message says of a drive, if it is about one: `ACTION@PATH`, then `NAME=VALUE`, each ended by a zero.
fn parse(message: &[u8]) -> Option<Uevent> {
    let fields = || message.split(|b| *b == 0);
    let value = |name: &str| {
        let mut values = fields().filter_map(|field| {
            let (key, value) = std::str::from_utf8(field).ok()?.split_once('=')?;
            (key == name).then_some(value)
        });
        values.next()
    };
    let drive = value("DEVNAME").filter(|name| super::sysfs::is_drive(name))?;
    (value("SUBSYSTEM") == Some("block")).then(|| Uevent {
        drive: drive.to_owned(),
        media_change: value("DISK_MEDIA_CHANGE") == Some("1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &[u8] = b"change@/devices/pci0000:00/0000:00:04.0/virtio1/host2/target2:0:0/2:0:0:0/block/sr0\0ACTION=change\0\
        DEVPATH=/devices/pci0000:00/0000:00:04.0/virtio1/host2/target2:0:0/2:0:0:0/block/sr0\0SUBSYSTEM=block\0\
        DISK_MEDIA_CHANGE=1\0MAJOR=11\0MINOR=0\0DEVNAME=sr0\0DEVTYPE=disk\0DISKSEQ=12\0SEQNUM=1234\0";

    #[test]
    fn a_message_of_a_drive_is_told_from_others() {
        let due = Uevent {
            drive: "sr0".into(),
            media_change: true,
        };
        assert_eq!(parse(CHANGE), Some(due.clone()));
        let text = String::from_utf8(CHANGE.to_vec()).unwrap();
        let changed = |from, to| parse(text.replace(from, to).as_bytes());
        let other = Uevent {
            media_change: false,
            ..due
        };
        assert_eq!(
            changed("DISK_MEDIA_CHANGE=1", "DISK_EJECT_REQUEST=1"),
            Some(other)
        );
        assert_eq!(changed("DEVNAME=sr0", "DEVNAME=sda"), None);
        assert_eq!(changed("DEVNAME=sr0", "DEVNAME=sr0/../sda"), None);
        assert_eq!(changed("SUBSYSTEM=block", "SUBSYSTEM=bdi"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\xff\0=\0DEVNAME"), None);
    }

    #[test]
    fn the_kernel_may_be_listened_to_and_has_nothing_to_say() {
        let uevents = Uevents::listen().unwrap();
        assert!(uevents.take().iter().all(|event| !event.drive.is_empty()));
    }
}
