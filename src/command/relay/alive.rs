//! Whether what is forwarded is alive: of each VM when it was last heard of, when something of it last arrived, and
//! until when its Producer says that it is there.

use std::collections::BTreeMap;

use serde::Deserialize;
use vmkpi::clock::Timestamp;

/// A VM of which nothing has come for so long is silent: hosts say something of each at least once a minute.
pub const SILENT_AFTER_US: i64 = 180_000_000;
/// The most VMs that are followed; over it those that have been silent for longest go, and without one the new one
/// is not followed.
pub const MAX_VMS: usize = 10_000;
/// A silent VM is forgotten after a day.
const FORGET_AFTER_US: i64 = 86_400_000_000;

/// Site and VM, as topics write them.
pub type Name = (String, String);

/// What is known of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vm {
    /// When a message of it last came.
    pub heard: Timestamp,
    /// When the next broker last acknowledged one.
    pub forwarded: Option<Timestamp>,
    /// Until when its lease lasts.
    pub lease: Option<Timestamp>,
    /// Whether nothing of it comes, as said last.
    pub silent: bool,
}

impl Vm {
    fn is_silent(&self, now: Timestamp) -> bool {
        // Who is heard of after its lease is alive, whatever became of the lease.
        let expired = |lease| lease < now && self.heard <= lease;
        let expired = self.lease.is_some_and(expired);
        expired || since(self.heard, now) > SILENT_AFTER_US
    }
}

/// What there is to say of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing of it comes any more.
    Silent(Name),
    /// It is heard of again.
    Back(Name),
}

/// The VMs that are forwarded.
#[derive(Debug, Default)]
pub struct Vms {
    vms: BTreeMap<Name, Vm>,
    /// Messages of VMs that are not followed.
    pub unfollowed: u64,
}

impl Vms {
    /// Goes on with what was known.
    pub fn new(known: impl IntoIterator<Item = (Name, Vm)>) -> Self {
        Self {
            vms: known.into_iter().take(MAX_VMS).collect(),
            unfollowed: 0,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Vm)> {
        self.vms.iter()
    }

    /// A message of a VM came.
    pub fn heard(&mut self, site: &str, vm: &str, now: Timestamp) {
        let name = (site.to_owned(), vm.to_owned());
        if let Some(vm) = self.vms.get_mut(&name) {
            vm.heard = now;
        } else if self.vms.len() < MAX_VMS || self.forget_one() {
            let vm = Vm {
                heard: now,
                forwarded: None,
                lease: None,
                silent: false,
            };
            self.vms.insert(name, vm);
        } else {
            self.unfollowed += 1;
        }
    }

    /// A lease of a VM came; an empty one says that its Producer has left.
    pub fn leased(&mut self, site: &str, vm: &str, payload: &[u8]) {
        let name = (site.to_owned(), vm.to_owned());
        if payload.is_empty() {
            // It said so: nothing is wrong.
            self.vms.remove(&name);
        } else if let Some(vm) = self.vms.get_mut(&name) {
            vm.lease = expiry(payload).or(vm.lease);
        }
    }

    /// A message of a VM was acknowledged by the next broker.
    pub fn forwarded(&mut self, site: &str, vm: &str, now: Timestamp) {
        if let Some(vm) = self.vms.get_mut(&(site.to_owned(), vm.to_owned())) {
            vm.forwarded = Some(now);
        }
    }

    /// What has changed until now; each is said once.
    pub fn look(&mut self, now: Timestamp) -> Vec<News> {
        self.vms
            .retain(|_, vm| since(vm.heard, now) <= FORGET_AFTER_US);
        let mut news = Vec::new();
        for (name, vm) in &mut self.vms {
            let silent = vm.is_silent(now);
            if silent != vm.silent {
                vm.silent = silent;
                news.push(match silent {
                    true => News::Silent(name.clone()),
                    false => News::Back(name.clone()),
                });
            }
        }
        news
    }

    /// Makes room by the one that has been silent for longest, if one is.
    fn forget_one(&mut self) -> bool {
        let silent = self.vms.iter().filter(|(_, vm)| vm.silent);
        let oldest = silent.min_by_key(|(_, vm)| vm.heard.as_micros());
        let Some(name) = oldest.map(|(name, _)| name.clone()) else {
            return false;
        };
        self.vms.remove(&name).is_some()
    }
}

/// Until when a lease lasts, if it says so.
fn expiry(payload: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Lease {
        expires_at: String,
    }
    let lease: Lease = serde_json::from_slice(payload).ok()?;
    lease.expires_at.parse().ok()
}

fn since(then: Timestamp, now: Timestamp) -> i64 {
    now.as_micros().saturating_sub(then.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000)
    }

    fn name() -> Name {
        ("acme".into(), "vm".into())
    }

    #[test]
    fn a_vm_that_goes_silent_and_comes_back_is_said_once_each() {
        let mut vms = Vms::default();
        vms.heard("acme", "vm", at(0));
        assert_eq!(vms.look(at(180)), []);
        assert_eq!(vms.look(at(181)), [News::Silent(name())]);
        assert_eq!(vms.look(at(500)), []);
        vms.heard("acme", "vm", at(501));
        assert_eq!(vms.look(at(501)), [News::Back(name())]);
        assert_eq!(vms.look(at(90_000)), [], "forgotten a day later");
        assert_eq!(vms.iter().count(), 0);
    }

    #[test]
    fn a_lease_that_expired_is_silence_and_one_that_was_taken_back_is_none() {
        let mut vms = Vms::default();
        vms.heard("acme", "vm", at(0));
        let lease = format!("{{\"expires_at\":\"{}\",\"more\":1}}", at(30));
        vms.leased("acme", "vm", lease.as_bytes());
        assert_eq!(vms.look(at(30)), []);
        assert_eq!(vms.look(at(31)), [News::Silent(name())]);
        vms.leased("acme", "vm", b"{\"expires_at\":7}");
        assert_eq!(vms.look(at(32)), [], "no lease of ours changes nothing");
        vms.leased("acme", "vm", b"");
        assert_eq!((vms.look(at(33)), vms.iter().count()), (vec![], 0));
    }

    #[test]
    fn a_bounded_number_is_followed_and_the_silent_go_first() {
        let mut vms = Vms::default();
        for n in 0..MAX_VMS {
            vms.heard("acme", &n.to_string(), at(i64::try_from(n / 1000).unwrap()));
        }
        vms.heard("acme", "new", at(11));
        assert_eq!((vms.unfollowed, vms.iter().count()), (1, MAX_VMS));
        vms.look(at(181));
        vms.heard("acme", "new", at(182));
        assert_eq!((vms.unfollowed, vms.iter().count()), (1, MAX_VMS));
        assert!(vms.iter().all(|((_, vm), _)| vm != "0"));
    }
}
