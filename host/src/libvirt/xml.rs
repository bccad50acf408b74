//! The few things wanted of a domain's live XML: the host's socket of its KPI port, its generation
//! id, what its network interfaces are called, and what the exporter shows of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::info::{Collector, Info};

/// The largest domain XML read, in bytes.
pub const MAX_XML_BYTES: usize = 4 << 20;

/// XML that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// Over [`MAX_XML_BYTES`].
    #[error("{0} bytes; at most {MAX_XML_BYTES} are read")]
    TooLarge(usize),
    /// Not well-formed.
    #[error("not well-formed: {0}")]
    Malformed(#[from] quick_xml::Error),
}

/// What a domain's XML says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainXml {
    /// `<genid>`.
    pub genid: Option<String>,
    /// The Unix socket of the virtio port that was asked for.
    pub channel: Option<PathBuf>,
    /// `<vsock><cid address=...>`: the context id that this run was assigned.
    pub cid: Option<u32>,
    /// Guest-side names of the network interfaces (`net0`), by the host's device (`vnet7`): the tap's
    /// name is the host's own and changes with every start.
    pub interfaces: BTreeMap<String, String>,
    /// What is shown of it.
    pub infos: Vec<Info>,
}

/// What has been seen of the `<channel>` or `<interface>` that is open.
#[derive(Default)]
struct Device {
    is_channel: bool,
    source: Option<PathBuf>,
    target: Option<String>,
    alias: Option<String>,
}

/// Reads the live XML of a domain, looking for the virtio port named `port`.
///
/// # Errors
/// The text is too long or not well-formed.
pub fn read(text: &str, port: &str) -> Result<DomainXml, XmlError> {
    if text.len() > MAX_XML_BYTES {
        return Err(XmlError::TooLarge(text.len()));
    }
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let (mut found, mut path, mut device) = (DomainXml::default(), Vec::new(), Device::default());
    let mut infos = Collector::default();
    loop {
        match reader.read_event()? {
            Event::Start(element) => {
                path.push(element.name().as_ref().to_owned());
                start(&element, &path, &mut device);
                infos.start(&path, |name| attribute(&element, name));
                if is(&path, &["domain", "devices", "vsock", "cid"]) {
                    found.cid = attribute(&element, "address").and_then(|cid| cid.parse().ok());
                }
            }
            Event::Text(text) => {
                infos.text(&path, &text);
                if is(&path, &["domain", "genid"]) {
                    found.genid = Some(text.trim().to_owned()).filter(|g| !g.is_empty());
                }
            }
            Event::GeneralRef(entity) => {
                let known = quick_xml::escape::resolve_predefined_entity(&entity);
                infos.text(&path, known.unwrap_or_default());
            }
            Event::End(_) => {
                infos.end(&path);
                if path.len() == 3 {
                    end(std::mem::take(&mut device), &path, port, &mut found);
                }
                path.pop();
            }
            Event::Eof => {
                found.infos = infos.finish();
                return Ok(found);
            }
            _ => {}
        }
    }
}

fn is(path: &[String], names: &[&str]) -> bool {
    path.len() == names.len() && path.iter().zip(names).all(|(a, b)| a == b)
}

fn start(element: &BytesStart<'_>, path: &[String], device: &mut Device) {
    match path {
        [_, devices, name] if devices == "devices" && name == "channel" => {
            device.is_channel = attribute(element, "type").as_deref() == Some("unix");
        }
        [_, devices, of, name] if devices == "devices" => match (of.as_str(), name.as_str()) {
            ("channel", "source") => device.source = attribute(element, "path").map(PathBuf::from),
            ("channel", "target") => device.target = attribute(element, "name"),
            ("interface", "target") => device.target = attribute(element, "dev"),
            ("interface", "alias") => device.alias = attribute(element, "name"),
            _ => {}
        },
        _ => {}
    }
}

fn end(device: Device, path: &[String], port: &str, found: &mut DomainXml) {
    match path[2].as_str() {
        "channel" if device.is_channel && device.target.as_deref() == Some(port) => {
            found.channel = found.channel.take().or(device.source);
        }
        "interface" => {
            if let (Some(target), Some(alias)) = (device.target, device.alias) {
                found.interfaces.insert(target, alias);
            }
        }
        _ => {}
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    let value = quick_xml::escape::unescape(&attribute.value).ok()?;
    Some(value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = r#"<domain type='qemu' id='3'>
  <name>a&lt;b</name>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <metadata><x:monitoring xmlns:x="y"><channel type='unix'><target name='org.vmkpi.kpi.0'/></channel></x:monitoring></metadata>
  <devices>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:cc'/><source network='default' bridge='virbr0'/>
      <target dev='vnet7'/><alias name='net0'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/run/agent.sock'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-3-a&amp;b/org.vmkpi.kpi.0'/>
      <target type='virtio' name='org.vmkpi.kpi.0' state='disconnected'/><alias name='channel1'/>
    </channel>
    <vsock model='virtio'><cid auto='yes' address='7'/><alias name='vsock0'/></vsock>
    <channel type='pty'><source path='/dev/pts/1'/><target type='virtio' name='org.vmkpi.kpi.0'/></channel>
  </devices>
</domain>"#;

    #[test]
    fn the_socket_of_the_kpi_port_is_found_in_live_xml() {
        let found = read(LIVE, "org.vmkpi.kpi.0").unwrap();
        let path = "/var/lib/libvirt/qemu/channel/target/domain-3-a&b/org.vmkpi.kpi.0";
        assert_eq!(found.channel, Some(path.into()));
        assert_eq!(found.cid, Some(7));
        assert_eq!(
            found.genid.as_deref(),
            Some("43dc0cf8-809b-4adb-9bea-a9abb5f3d90e")
        );
        assert_eq!(
            found.interfaces.get("vnet7").map(String::as_str),
            Some("net0")
        );
    }

    #[test]
    fn a_domain_without_a_port_has_no_socket() {
        for text in [
            "<domain type='test'><name>x</name></domain>",
            "<domain><devices><channel type='unix'><target name='org.vmkpi.kpi.0'/></channel></devices></domain>",
            "<domain><genid/></domain>",
        ] {
            assert_eq!(
                read(text, "org.vmkpi.kpi.0").unwrap(),
                DomainXml::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        assert!(read("<domain><a></domain>", "p").is_err());
        assert!(read(&"x".repeat(MAX_XML_BYTES + 1), "p").is_err());
    }
}
