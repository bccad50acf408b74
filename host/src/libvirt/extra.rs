//! What libvirt's bulk statistics do not say and the neighbouring exporters show: where virtual processors
//! run and may run, and for which disk error a domain was paused. A call for each domain, both by
//! way of `virt-sys`, as `virt` 0.5 has neither.
#![expect(
    unsafe_code,
    reason = "virt 0.5 has neither virDomainGetVcpus nor virDomainGetDiskErrors"
)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use crate::metrics::MAX_DEVICES;

/// The most processors of a host whose affinity is read.
const MAX_HOST_CPUS: usize = 4096;

/// What is asked for less often than figures, and is no measurement: the exporter shows it, and nothing of
/// it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// The virtual processors that are online.
    pub vcpus: Arc<[VcpuPlace]>,
    /// The disks for whose errors the domain was paused.
    pub disk_errors: Arc<[DiskError]>,
}

/// Where a virtual processor runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuPlace {
    /// Its number.
    pub vcpu: u32,
    /// The host's processor that it ran on last, where the hypervisor says so.
    pub cpu: Option<u32>,
    /// The host's processors that it may run on, as `0-3,8`.
    pub cpus: String,
}

/// A disk that a domain was paused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// The disk's target (`vda`).
    pub disk: String,
    /// What happened (virDomainDiskErrorCode): 1 any error, 2 no space is left.
    pub code: u32,
}

/// How many processors the host may have: as many as bits are asked for.
pub(super) fn host_cpus(connection: &Connect) -> Result<usize, Error> {
    let node = connection.node_info()?;
    let cpus = [node.nodes, node.sockets, node.cores, node.threads];
    let cpus = cpus.iter().fold(1_usize, |all, n| {
        all.saturating_mul(usize::try_from(*n).unwrap_or(usize::MAX))
    });
    Ok(cpus.clamp(1, MAX_HOST_CPUS))
}

/// Where the first `count` virtual processors run. libvirt looks into `/proc` for it and asks no
/// hypervisor's process.
pub(super) fn vcpus(
    domain: &Domain,
    count: usize,
    host_cpus: usize,
) -> Result<Vec<VcpuPlace>, Error> {
    let (count, map_len) = (count.min(MAX_DEVICES), host_cpus.div_ceil(8));
    if count == 0 {
        return Ok(Vec::new());
    }
    let none = sys::virVcpuInfo {
        number: 0,
        state: 0,
        cpuTime: 0,
        cpu: -1,
    };
    let (mut infos, mut maps) = (vec![none; count], vec![0_u8; count * map_len]);
    let as_int = |n: usize| c_int::try_from(n).unwrap_or(0);
    // SAFETY: the domain is alive; `infos` has room for `count` entries and `maps` for a map each.
    let found = unsafe {
        sys::virDomainGetVcpus(
            domain.as_ptr(),
            infos.as_mut_ptr(),
            as_int(count),
            maps.as_mut_ptr(),
            as_int(map_len),
        )
    };
    let Ok(found) = usize::try_from(found) else {
        return Err(Error::last_error());
    };
    let places = infos.iter().zip(maps.chunks(map_len)).take(found);
    Ok(places
        .map(|(info, map)| VcpuPlace {
            vcpu: info.number,
            cpu: u32::try_from(info.cpu).ok(),
            cpus: ranges(map, host_cpus),
        })
        .collect())
}

/// The disks with an error. libvirt asks the hypervisor's process for it.
pub(super) fn disk_errors(domain: &Domain) -> Result<Vec<DiskError>, Error> {
    let none = sys::virDomainDiskError {
        disk: std::ptr::null_mut(),
        error: 0,
    };
    let mut errors = Errors(vec![none; MAX_DEVICES]);
    let room = u32::try_from(MAX_DEVICES).unwrap_or(0);
    // SAFETY: the domain is alive, and there is room for `room` entries.
    let found =
        unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), errors.0.as_mut_ptr(), room, 0) };
    let Ok(found) = usize::try_from(found) else {
        return Err(Error::last_error());
    };
    let found = errors.0.iter().take(found).filter(|e| !e.disk.is_null());
    Ok(found
        .map(|error| DiskError {
            // SAFETY: libvirt set a text that ends with NUL, and `errors` frees it later.
            disk: unsafe { CStr::from_ptr(error.disk) }
                .to_string_lossy()
                .into_owned(),
            code: u32::try_from(error.error).unwrap_or(0),
        })
        .collect())
}

unsafe extern "C" {
    /// What libvirt allocates for its caller is the C library's.
    fn free(memory: *mut c_void);
}

/// Errors whose texts are ours to be freed.
struct Errors(Vec<sys::virDomainDiskError>);

impl Drop for Errors {
    fn drop(&mut self) {
        for error in &self.0 {
            // SAFETY: libvirt allocated the text for its caller (or it is null), and this is its only
            // release.
            unsafe { free(error.disk.cast()) };
        }
    }
}

/// The bits of a map of processors, as `0-3,8`.
fn ranges(map: &[u8], count: usize) -> String {
    let is_set = |cpu: usize| map.get(cpu / 8).is_some_and(|b| b & (1 << (cpu % 8)) != 0);
    let mut text = String::new();
    let mut cpu = 0;
    while cpu < count {
        if !is_set(cpu) {
            cpu += 1;
            continue;
        }
        let first = cpu;
        while cpu + 1 < count && is_set(cpu + 1) {
            cpu += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&first.to_string());
        if cpu > first {
            text.push_str(&format!("-{cpu}"));
        }
        cpu += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_processors_is_written_in_ranges() {
        for (map, count, text) in [
            (&[0b1][..], 1, "0"),
            (&[0b1111_1111], 6, "0-5"),
            (&[0b1111_1111, 0xff], 16, "0-15"),
            (&[0b1000_1101, 0b10], 16, "0,2-3,7,9"),
            (&[0, 0], 16, ""),
            (&[], 8, ""),
        ] {
            assert_eq!(ranges(map, count), text);
        }
    }
}
