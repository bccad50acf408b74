//! Domain events, registered through `virt-sys`: `virt` 0.5 has no way to. A callback copies the
//! UUID into a channel and does nothing else; it runs on the event loop's thread.
#![expect(
    unsafe_code,
    reason = "virt 0.5 does not wrap virConnectDomainEventRegisterAny"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::mpsc::SyncSender;

use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::Ended;
use super::lifecycle::Lifecycle;

/// Something happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DomainEvent {
    /// Whose.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Whether it was started, or arrived: its counters begin anew.
    pub started: bool,
    /// How it ended, if that is what happened.
    pub ended: Option<Ended>,
    /// What happened, if it is an event of its lifecycle.
    pub lifecycle: Option<Lifecycle>,
}

/// Registered callbacks. Dropping it takes them back: a callback holds a reference to the connection,
/// which would otherwise never close.
pub(super) struct Registration {
    connection: Connect,
    ids: Vec<c_int>,
}

impl Registration {
    /// Asks for the lifecycle and metadata events of every domain.
    pub fn new(connection: &Connect, to: &SyncSender<DomainEvent>) -> Result<Self, Error> {
        let mut registration = Self {
            connection: connection.clone(),
            ids: Vec::new(),
        };
        // SAFETY: libvirt takes every callback as one pointer type and calls it by the signature
        // that belongs to the event id (libvirt-domain.h); these are those signatures.
        let (lifecycle, metadata) = unsafe {
            (
                std::mem::transmute::<*const (), GenericFn>(on_lifecycle as *const ()),
                std::mem::transmute::<*const (), GenericFn>(on_metadata as *const ()),
            )
        };
        registration.add(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, to)?;
        // Drivers without it (the test driver of some releases) are polled.
        if let Err(error) = registration.add(sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata, to)
        {
            tracing::debug!(%error, "no metadata events; metadata is polled");
        }
        Ok(registration)
    }

    fn add(
        &mut self,
        event: sys::virDomainEventID,
        callback: GenericFn,
        to: &SyncSender<DomainEvent>,
    ) -> Result<(), Error> {
        let opaque = Box::into_raw(Box::new(to.clone())).cast::<c_void>();
        // SAFETY: the connection is open; `opaque` is a boxed sender that `free` alone releases,
        // which libvirt calls once, when the callback is taken back.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connection.as_ptr(),
                std::ptr::null_mut(),
                event as c_int,
                Some(callback),
                opaque,
                Some(free),
            )
        };
        if id < 0 {
            // SAFETY: registration failed, so libvirt did not take the box and will not free it.
            unsafe { free(opaque) };
            return Err(Error::last_error());
        }
        self.ids.push(id);
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            // SAFETY: `id` was returned for this connection. It fails when the connection is dead,
            // and the callback is gone either way.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), id) };
        }
    }
}

type GenericFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) {
    let (started, ended) = meaning(event, detail);
    let event = (started, ended, Some(Lifecycle::of(event, detail)));
    // SAFETY: libvirt passes a valid domain and the `opaque` of the registration.
    unsafe { forward(domain, event, opaque) };
}

unsafe extern "C" fn on_metadata(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    _uri: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { forward(domain, (false, None, None), opaque) };
}

/// Whether a lifecycle event is a start, and what kind of end it is.
fn meaning(event: c_int, detail: c_int) -> (bool, Option<Ended>) {
    let migrated =
        detail as sys::virDomainEventStoppedDetailType == sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED;
    match event as sys::virDomainEventType {
        sys::VIR_DOMAIN_EVENT_STARTED => (true, None),
        sys::VIR_DOMAIN_EVENT_STOPPED if migrated => (false, Some(Ended::Migrated)),
        sys::VIR_DOMAIN_EVENT_STOPPED => (false, Some(Ended::Stopped)),
        _ => (false, None),
    }
}

unsafe fn forward(
    domain: sys::virDomainPtr,
    (started, ended, lifecycle): (bool, Option<Ended>, Option<Lifecycle>),
    opaque: *mut c_void,
) {
    let mut uuid = [0 as c_char; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: the buffer has the documented size; the call reads the domain object only.
    if unsafe { sys::virDomainGetUUIDString(domain, uuid.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: libvirt ended the text with NUL.
    let uuid = unsafe { CStr::from_ptr(uuid.as_ptr()) };
    // SAFETY: the call reads the domain object only; what it returns lives as long as that.
    let name = match unsafe { sys::virDomainGetName(domain) } {
        name if name.is_null() => String::new(),
        // SAFETY: libvirt ended the text with NUL.
        name => unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned(),
    };
    // SAFETY: `opaque` is the boxed sender, alive until `free`; senders may be shared.
    let to = unsafe { &*opaque.cast::<SyncSender<DomainEvent>>() };
    // A full channel loses the event; the follower's next reconciliation finds what it said.
    let _ = to.try_send(DomainEvent {
        uuid: uuid.to_string_lossy().into_owned(),
        name,
        started,
        ended,
        lifecycle,
    });
}

unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `add`, and freed only once.
    drop(unsafe { Box::from_raw(opaque.cast::<SyncSender<DomainEvent>>()) });
}
