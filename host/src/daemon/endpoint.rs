//! Where a domain's link is.

use vmkpi::link::LinkUrl;

use crate::libvirt::{Domain, State};
use crate::link::{Address, Endpoint};

/// Where the domain's link is: where the operator said, or in its live XML. A vsock link is the domain's only
/// while libvirt says that the context id is: one that was let go may be another VM's.
pub(super) fn endpoint(domain: &Domain, given: Option<&LinkUrl>) -> Option<Endpoint> {
    if domain.state == State::Off {
        return None;
    }
    let (address, joining) = match given {
        Some(LinkUrl::Unix(path)) => (Address::Unix(path.clone()), false),
        Some(&LinkUrl::Vsock { cid, port }) if domain.cid == Some(cid) => {
            (Address::Vsock { cid, port }, false)
        }
        // Over a network the guest connects; settings refuse it.
        Some(LinkUrl::Vsock { .. } | LinkUrl::Tls { .. }) => return None,
        Some(LinkUrl::VirtioSerial(_)) | None => (Address::Unix(domain.channel.clone()?), true),
    };
    Some(Endpoint { address, joining })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsock_link_is_followed_only_while_libvirt_says_that_the_domain_has_the_cid() {
        let url = "vsock:7:9001".parse().unwrap();
        let mut domain = Domain {
            state: State::Running,
            channel: Some("/port".into()),
            ..Domain::default()
        };
        assert_eq!(endpoint(&domain, Some(&url)), None, "it has none");
        domain.cid = Some(8);
        assert_eq!(endpoint(&domain, Some(&url)), None, "it is another's");
        domain.cid = Some(7);
        let found = endpoint(&domain, Some(&url)).unwrap();
        let due = Address::Vsock { cid: 7, port: 9001 };
        assert_eq!((found.address, found.joining), (due, false));
        domain.state = State::Off;
        assert_eq!(endpoint(&domain, Some(&url)), None, "it is off");
        domain.state = State::Running;
        let channel = endpoint(&domain, None).unwrap();
        assert_eq!(channel.address, Address::Unix("/port".into()));
        assert!(channel.joining);
    }
}
