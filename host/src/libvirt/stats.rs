//! Statistics through `virt-sys`: what `virt` 0.5 returns are bare pointers that it never frees (35 MB
//! after 100,000 calls).
#![expect(
    unsafe_code,
    reason = "virt 0.5 leaks the records of virDomainListGetStats"
)]

use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::figures::{Figures, Param};

/// Which figures are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Those that libvirt knows without asking the hypervisor's process: they never block.
    Quick,
    /// Those for which it needs the domain's job and its monitor: they block while either does.
    Detailed,
}

impl Kind {
    /// Groups that the daemon does not know are passed over by it.
    fn groups(self) -> sys::virDomainStatsTypes {
        match self {
            Self::Quick => {
                sys::VIR_DOMAIN_STATS_STATE
                    | sys::VIR_DOMAIN_STATS_INTERFACE
                    | sys::VIR_DOMAIN_STATS_PERF
                    | sys::VIR_DOMAIN_STATS_MEMORY
            }
            // The state is not shown from here: it says of whom disk errors are asked for.
            Self::Detailed => {
                sys::VIR_DOMAIN_STATS_STATE
                    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
                    | sys::VIR_DOMAIN_STATS_BALLOON
                    | sys::VIR_DOMAIN_STATS_VCPU
                    | sys::VIR_DOMAIN_STATS_BLOCK
                    | sys::VIR_DOMAIN_STATS_IOTHREAD
                    | sys::VIR_DOMAIN_STATS_DIRTYRATE
            }
        }
    }
}

/// The figures of `domains`, by UUID; a domain that is gone is left out. All of one connection.
///
/// With the no-wait flag a domain whose job somebody else holds comes back with fewer figures instead
/// of holding everybody up. It is no guard: who gets the job first waits for the hypervisor.
pub(super) fn collect(domains: &[&Domain], kind: Kind) -> Result<Vec<(Arc<str>, Figures)>, Error> {
    if domains.is_empty() {
        return Ok(Vec::new());
    }
    let records = Records::get(domains, kind)?;
    Ok(records.iter().filter_map(read).collect())
}

/// Adds what the job on the domain says, if there is one: a migration, a save, a backup.
pub(super) fn add_job(domain: &Domain, figures: &mut Figures) -> Result<(), Error> {
    let (mut kind, mut count, mut list) = (0, 0, std::ptr::null_mut());
    // SAFETY: the domain is alive; `list` receives an array of `count` that `Params` frees.
    let result = unsafe {
        let domain = domain.as_ptr();
        sys::virDomainGetJobStats(domain, &raw mut kind, &raw mut list, &raw mut count, 0)
    };
    if result != 0 {
        return Err(Error::last_error());
    }
    let params = Params { list, count };
    let kind = u64::try_from(kind).unwrap_or(0);
    if kind == u64::from(sys::VIR_DOMAIN_JOB_NONE) {
        return Ok(());
    }
    figures.set("job.type", Param::Number(kind));
    for (name, value) in params.as_slice().iter().filter_map(param) {
        figures.set(&format!("job.{name}"), value);
    }
    Ok(())
}

/// A list of typed parameters that is libvirt's to be freed.
struct Params {
    list: sys::virTypedParameterPtr,
    count: c_int,
}

impl Params {
    fn as_slice(&self) -> &[sys::virTypedParameter] {
        match usize::try_from(self.count) {
            // SAFETY: libvirt filled `count` parameters, which live as long as `self`.
            Ok(count) if count > 0 => unsafe { std::slice::from_raw_parts(self.list, count) },
            _ => &[],
        }
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: the list is libvirt's (or null), and this is its only release.
        unsafe { sys::virTypedParamsFree(self.list, self.count) };
    }
}

/// The array that libvirt returned; freed with everything in it.
struct Records {
    list: *mut sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Records {
    fn get(domains: &[&Domain], kind: Kind) -> Result<Self, Error> {
        // SAFETY: the pointers are used for this call only, while the domains are borrowed.
        let mut asked: Vec<_> = domains.iter().map(|d| unsafe { d.as_ptr() }).collect();
        asked.push(std::ptr::null_mut());
        let mut list = std::ptr::null_mut();
        let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        // SAFETY: `asked` ends with null, and `list` receives an array that `Drop` frees.
        let count = unsafe {
            sys::virDomainListGetStats(asked.as_mut_ptr(), kind.groups(), &raw mut list, flags)
        };
        match usize::try_from(count) {
            Ok(count) => Ok(Self { list, count }),
            Err(_) => Err(Error::last_error()),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &sys::virDomainStatsRecord> {
        // SAFETY: the array has `count` valid entries, which live as long as `self`.
        (0..self.count).map(|at| unsafe { &**self.list.add(at) })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        if !self.list.is_null() {
            // SAFETY: the array is libvirt's, and this is its only release.
            unsafe { sys::virDomainStatsRecordListFree(self.list) };
        }
    }
}

fn read(record: &sys::virDomainStatsRecord) -> Option<(Arc<str>, Figures)> {
    let mut uuid = [0 as c_char; sys::VIR_UUID_STRING_BUFLEN as usize];
    // SAFETY: the record's domain is valid and the buffer has the documented size.
    if unsafe { sys::virDomainGetUUIDString(record.dom, uuid.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: libvirt ended the text with NUL.
    let uuid = unsafe { CStr::from_ptr(uuid.as_ptr()) }.to_str().ok()?;
    let mut figures = Figures::default();
    let count = usize::try_from(record.nparams).unwrap_or(0);
    if count > 0 {
        // SAFETY: libvirt filled `nparams` parameters.
        let params = unsafe { std::slice::from_raw_parts(record.params, count) };
        for (name, value) in params.iter().filter_map(param) {
            figures.set(name, value);
        }
    }
    Some((uuid.into(), figures))
}

fn param(param: &sys::virTypedParameter) -> Option<(&str, Param<'_>)> {
    // SAFETY: the field is a NUL-terminated name within its 80 bytes.
    let name = unsafe { CStr::from_ptr(param.field.as_ptr()) }
        .to_str()
        .ok()?;
    // SAFETY: `type_` says which field of the union is set.
    let value = unsafe {
        match param.type_ as sys::virTypedParameterType {
            sys::VIR_TYPED_PARAM_INT => Param::Number(u64::try_from(param.value.i).ok()?),
            sys::VIR_TYPED_PARAM_UINT => Param::Number(param.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => Param::Number(u64::try_from(param.value.l).ok()?),
            sys::VIR_TYPED_PARAM_ULLONG => Param::Number(param.value.ul),
            sys::VIR_TYPED_PARAM_BOOLEAN => Param::Number((param.value.b != 0).into()),
            sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                Param::Text(CStr::from_ptr(param.value.s).to_str().ok()?)
            }
            _ => return None,
        }
    };
    Some((name, value))
}
