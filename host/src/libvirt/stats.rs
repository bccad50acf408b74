//! Bulk statistics through `virt-sys`: what `virt` 0.5 returns are bare pointers that it never
//! frees (35 MB after 100,000 calls).
#![expect(
    unsafe_code,
    reason = "virt 0.5 leaks the records of virConnectGetAllDomainStats"
)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::Arc;

use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::figures::{Figures, Param};

const GROUPS: sys::virDomainStatsTypes = sys::VIR_DOMAIN_STATS_STATE
    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | sys::VIR_DOMAIN_STATS_BALLOON
    | sys::VIR_DOMAIN_STATS_VCPU
    | sys::VIR_DOMAIN_STATS_INTERFACE
    | sys::VIR_DOMAIN_STATS_BLOCK;

/// The figures of every domain in one call, by UUID.
pub(super) fn collect(connection: &Connect) -> Result<HashMap<Arc<str>, Figures>, Error> {
    let records = Records::get(connection)?;
    Ok(records.iter().filter_map(read).collect())
}

/// The array that libvirt returned; freed with everything in it.
struct Records {
    list: *mut sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Records {
    fn get(connection: &Connect) -> Result<Self, Error> {
        let mut list = std::ptr::null_mut();
        // SAFETY: the connection is open and `list` receives an array that `Drop` frees.
        let count = unsafe {
            sys::virConnectGetAllDomainStats(connection.as_ptr(), GROUPS, &raw mut list, 0)
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
            sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                Param::Text(CStr::from_ptr(param.value.s).to_str().ok()?)
            }
            _ => return None,
        }
    };
    Some((name, value))
}
