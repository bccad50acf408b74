//! The one place that changes a domain: the medium of a CD-ROM drive, and drives that are attached and detached. Over a
//! connection that may write, opened only where context is offered; whoever has one is alone with it, so that a call that
//! does not return holds up nobody else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;

use super::drives::Drives;
use super::lifecycle::Found;
use super::xml::XmlError;
use super::{follower, is_gone};

/// How long a drive may take to be gone after libvirt has said that it will be.
const DETACH_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const DETACH_POLL: Duration = Duration::from_millis(2);

/// Why a drive is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The domain does not run on this host.
    #[error("the domain does not run here")]
    Gone,
    /// libvirt cannot be reached, or lets us only look.
    #[error("libvirt: {0}; context takes a connection that may write (docs/CONTEXT.md, Rights)")]
    Connection(String),
    /// Somebody else has the domain's job.
    #[error("the domain is busy: {0}")]
    Busy(String),
    /// The guest holds the medium.
    #[error(
        "the guest does not let go of the medium: {0}; have it unmounted, or set context.force"
    )]
    Locked(String),
    /// Its live XML cannot be read.
    #[error("domain XML: {0}")]
    Xml(#[from] XmlError),
    /// Anything else that libvirt says.
    #[error("libvirt: {0}")]
    Call(String),
}

impl From<Error> for MediaError {
    fn from(error: Error) -> Self {
        use virt_sys as sys;
        let (code, message) = (error.code().to_raw(), error.message().to_owned());
        match code {
            _ if is_gone(&error) => Self::Gone,
            sys::VIR_ERR_OPERATION_INVALID if message.contains("not running") => Self::Gone,
            sys::VIR_ERR_OPERATION_TIMEOUT => Self::Busy(message),
            _ if is_of_tray(&message) => Self::Locked(message),
            sys::VIR_ERR_NO_CONNECT
            | sys::VIR_ERR_INVALID_CONN
            | sys::VIR_ERR_AUTH_FAILED
            | sys::VIR_ERR_AUTH_UNAVAILABLE
            | sys::VIR_ERR_AUTH_CANCELLED
            | sys::VIR_ERR_ACCESS_DENIED
            | sys::VIR_ERR_OPERATION_DENIED
            | sys::VIR_ERR_RPC
            | sys::VIR_ERR_SYSTEM_ERROR
            | sys::VIR_ERR_INTERNAL_ERROR
                if is_of_connection(code, &message) =>
            {
                Self::Connection(message)
            }
            _ => Self::Call(message),
        }
    }
}

impl MediaError {
    /// Whether the tray is shut that libvirt takes for open and therefore does not open: no trial opens it then.
    pub fn is_mistaken(&self) -> bool {
        matches!(self, Self::Locked(said) if said.contains("is not open"))
    }
}

/// Whether the guest keeps the tray shut, or shuts it again: there is no number for it, only QEMU's and libvirt's words.
fn is_of_tray(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("tray") || message.contains("is locked")
}

/// An internal error of libvirt's is one of the connection only when it says so.
fn is_of_connection(code: virt_sys::virErrorNumber, message: &str) -> bool {
    let words = ["client socket is closed", "connect"];
    code != virt_sys::VIR_ERR_INTERNAL_ERROR || words.iter().any(|word| message.contains(word))
}

/// A connection that may write.
#[derive(Debug)]
pub struct Hands {
    connection: Connect,
}

/// A domain to be changed.
#[derive(Debug)]
pub struct Hold(Domain);

impl Hands {
    /// Connects.
    ///
    /// # Errors
    /// libvirt does not answer, or does not allow it.
    pub fn open(uri: &str) -> Result<Self, MediaError> {
        let connection = Connect::open(Some(uri));
        let connection = connection.map_err(|e| MediaError::Connection(e.message().to_owned()))?;
        Ok(Self { connection })
    }

    /// Whether the connection lives, as far as is known without asking.
    pub fn is_alive(&self) -> bool {
        self.connection.is_alive().unwrap_or(false)
    }

    /// The domain.
    ///
    /// # Errors
    /// There is none, or libvirt fails.
    pub fn hold(&self, uuid: &str) -> Result<Hold, MediaError> {
        Ok(Hold(self.connection.lookup_domain_by_uuid_string(uuid)?))
    }

    /// Where the domain is.
    ///
    /// # Errors
    /// libvirt fails.
    pub fn find(&self, uuid: &str) -> Result<Found, MediaError> {
        match self.connection.lookup_domain_by_uuid_string(uuid) {
            Ok(domain) => Ok(Found::of(&domain)?),
            Err(error) if is_gone(&error) => Ok(Found::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

impl Hold {
    /// Its XML: the live one, while it runs.
    ///
    /// # Errors
    /// libvirt fails.
    pub fn xml(&self) -> Result<String, MediaError> {
        Ok(self.0.xml_desc(0)?)
    }

    /// The `<vmkpi:monitoring>` element of its metadata, if it has one.
    ///
    /// # Errors
    /// libvirt fails.
    pub fn metadata(&self) -> Result<Option<String>, MediaError> {
        Ok(follower::metadata(&self.0)?)
    }

    /// Changes the medium of a drive, as its element says; with `force` against the guest's will.
    ///
    /// # Errors
    /// The guest holds the medium, or libvirt fails.
    pub fn change(&self, xml: &str, force: bool) -> Result<(), MediaError> {
        let force = if force {
            virt_sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE
        } else {
            0
        };
        let live = virt_sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
        Ok(self.0.update_device_flags(xml, live | force)?)
    }

    /// Attaches a drive.
    ///
    /// # Errors
    /// libvirt fails.
    pub fn attach(&self, xml: &str) -> Result<(), MediaError> {
        let live = virt_sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
        Ok(self.0.attach_device_flags(xml, live)?)
    }

    /// Detaches a drive, and waits until it is gone: libvirt answers when the guest has been asked.
    ///
    /// # Errors
    /// libvirt fails, or the guest keeps the drive.
    pub fn detach(&self, xml: &str, target: &str) -> Result<(), MediaError> {
        let live = virt_sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE;
        self.0.detach_device_flags(xml, live)?;
        let asked = Instant::now();
        while Drives::read(&self.xml()?)?.has_cdrom(target) {
            if asked.elapsed() > DETACH_WAIT {
                return Err(MediaError::Locked(format!("drive {target} is still there")));
            }
            sleep(DETACH_POLL);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_and_libvirt_say_of_a_tray_is_read_as_that() {
        for words in [
            "operation failed: timed out waiting to open tray of 'hdc'",
            "internal error: unable to execute QEMU command 'blockdev-remove-medium': Tray of device 'ide0-1-0' is not open",
            "internal error: unable to execute QEMU command 'eject': Device 'drive-scsi0' is locked",
        ] {
            assert!(is_of_tray(words), "{words}");
        }
        assert!(!is_of_tray("internal error: client socket is closed"));
        let mistaken = |words: &str| MediaError::Locked(words.into()).is_mistaken();
        assert!(mistaken("Tray of device 'scsi0-0-0-0' is not open"));
        assert!(
            !mistaken("timed out waiting to open tray of 'sda'"),
            "a guest that holds it is waited for"
        );
        let internal = virt_sys::VIR_ERR_INTERNAL_ERROR;
        assert!(is_of_connection(
            internal,
            "internal error: client socket is closed"
        ));
        assert!(!is_of_connection(
            internal,
            "internal error: unable to execute QEMU command"
        ));
        assert!(is_of_connection(virt_sys::VIR_ERR_RPC, "anything"));
    }
}
