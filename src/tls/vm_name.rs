//! Who a VM is, in its certificate: a URI among its subject alternative names (RFC 5280, section 4.2.1.6), as a URN
//! (RFC 8141). It says whose the VM is and what its owner calls it, and nothing of where it runs.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;

use crate::name::Label;

/// What every name begins with.
const PREFIX: &str = "urn:vmkpi:";

/// A VM's name in a certificate: `urn:vmkpi:SITE:VM`. What is none of `A-Z a-z 0-9 - . _ ~` is percent-encoded
/// (RFC 3986, section 2.1), so that there is one spelling of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName {
    /// Its primary site.
    pub site: Label,
    /// Its name in its descriptor.
    pub vm: Label,
}

/// Text that names no VM.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no VM's name: write {PREFIX}SITE:VM")]
pub struct VmNameError(String);

impl VmName {
    /// The VM that a certificate is of, if it is of exactly one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names = parsed
            .valid_uri_names()
            .filter(|uri| uri.starts_with(PREFIX));
        let name = names.next()?.parse().ok()?;
        names.next().is_none().then_some(name)
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (site, vm) = (encode(self.site.as_str()), encode(self.vm.as_str()));
        write!(f, "{PREFIX}{site}:{vm}")
    }
}

impl FromStr for VmName {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, VmNameError> {
        let read = || {
            let (site, vm) = text.strip_prefix(PREFIX)?.split_once(':')?;
            let name = Self {
                site: decode(site)?.parse().ok()?,
                vm: decode(vm)?.parse().ok()?,
            };
            (name.to_string() == text).then_some(name)
        };
        read().ok_or_else(|| VmNameError(text.chars().take(256).collect()))
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(b));
            }
            _ => encoded.push_str(&format!("%{b:02X}")),
        }
    }
    encoded
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, tail)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(site in "[^/\\p{C}]{1,40}", vm in "[^/\\p{C}]{1,40}") {
            if let (Ok(site), Ok(vm)) = (site.parse::<Label>(), vm.parse::<Label>()) {
                let name = VmName { site, vm };
                let text = name.to_string();
                proptest::prop_assert!(text.is_ascii() && !text.contains([' ', '"', '/']));
                proptest::prop_assert_eq!(text.parse::<VmName>().unwrap(), name);
            }
        }

        #[test]
        fn nothing_breaks_it(text in "(urn:vmkpi:)?.{0,60}") {
            if let Ok(name) = text.parse::<VmName>() {
                proptest::prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn each_vm_has_one_spelling() {
        for (site, vm, text) in [
            ("acme", "shop-1", "urn:vmkpi:acme:shop-1"),
            ("a:b", "c d", "urn:vmkpi:a%3Ab:c%20d"),
            ("größe", "100%", "urn:vmkpi:gr%C3%B6%C3%9Fe:100%25"),
        ] {
            let name = VmName {
                site: site.parse().unwrap(),
                vm: vm.parse().unwrap(),
            };
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse::<VmName>().unwrap(), name);
        }
        for bad in [
            "",
            "urn:vmkpi:acme",
            "urn:vmkpi:acme:",
            "urn:vmkpi::shop",
            "urn:vmkpi:a:b:c",
            "URN:vmkpi:acme:shop",
            "urn:vmkpi:acme:%73hop",
            "urn:vmkpi:acme:%c3%9f",
            "urn:vmkpi:acme:%",
            "urn:vmkpi:acme:%4",
            "urn:vmkpi:acme:%+1",
            "urn:vmkpi:acme:%FF",
            "urn:vmkpi:acme:a%2Fb",
            "urn:vmkpi:acme:a%00",
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }
}
