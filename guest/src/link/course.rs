//! Where the link should go: what the context says, or else what the image does. Pure.

use vmkpi::link::LinkUrl;

/// The longest endpoint, in bytes: a name of 253 with scheme and port fits.
const MAX_BYTES: usize = 300;

/// What the image says of endpoints.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Where the link goes while no context says otherwise.
    pub url: LinkUrl,
    /// Whether there are certificates for `tls:`.
    pub has_certificates: bool,
}

/// Where to go, by what the context's file of the endpoint holds.
///
/// # Errors
/// Why what it holds is not gone by: the endpoint in force stays.
pub fn course(said: Option<&str>, configured: &Configured) -> Result<LinkUrl, String> {
    let Some(said) = said else {
        return Ok(configured.url.clone());
    };
    let line = said.trim();
    if line.is_empty() {
        return Err("the file is empty: write a link's URL, or leave the file out".into());
    }
    if line.len() > MAX_BYTES || line.contains(['\n', '\r']) {
        return Err(format!(
            "it is more than one line of {MAX_BYTES} bytes: write a link's URL alone"
        ));
    }
    let url: LinkUrl = line.parse().map_err(|e| format!("{e}"))?;
    if !url.allowed_in_context() {
        return Err(format!(
            "a context may not name {url}: it may name virtio-serial:org.vmkpi.*, vsock:2:PORT or tls:HOST:PORT"
        ));
    }
    if matches!(url, LinkUrl::Tls { .. }) && !configured.has_certificates {
        return Err(format!(
            "{url} needs certificates, and this image has none: set cert_file, key_file and ca_file in [link_tls]"
        ));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_leads_within_what_the_image_allows() {
        let mut configured = Configured {
            url: "unix:/run/link".parse().unwrap(),
            has_certificates: true,
        };
        let to = |said: Option<&str>, configured: &Configured| {
            course(said, configured).map(|url| url.to_string())
        };
        assert_eq!(to(None, &configured).unwrap(), "unix:/run/link");
        for (said, due) in [
            ("tls:a.example:9001\n", "tls:a.example:9001"),
            (
                " virtio-serial:org.vmkpi.b \r\n",
                "virtio-serial:org.vmkpi.b",
            ),
            ("vsock:2:9001", "vsock:2:9001"),
        ] {
            assert_eq!(to(Some(said), &configured).unwrap(), due);
        }
        let long = format!("tls:{}:1", "a".repeat(400));
        for (said, why) in [
            ("", "empty"),
            ("\n", "empty"),
            ("unix:/run/link", "may not name"),
            ("vsock:3:9001", "may not name"),
            ("http://x", "unknown scheme"),
            ("tls:a:1\ntls:b:1", "one line"),
            ("tls:a:1\rx", "one line"),
            (&long, "one line"),
        ] {
            let error = to(Some(said), &configured).unwrap_err();
            assert!(error.contains(why), "{said:?}: {error}");
            assert!(error.len() < 600, "bounded");
        }
        configured.has_certificates = false;
        let error = to(Some("tls:a:1"), &configured).unwrap_err();
        assert!(error.contains("[link_tls]"), "{error}");
    }
}
