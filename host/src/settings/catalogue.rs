//! The settings themselves.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use vmkpi::directory::{MAX_LEASE_SECONDS, MIN_LEASE_SECONDS};
use vmkpi::link::LinkUrl;
use vmkpi::settings::units::{number, path};
use vmkpi::settings::{Catalogue, Kind, Setting};

use super::Settings;

/// The smallest outbox that is of use, in bytes.
const MIN_OUTBOX_BYTES: u64 = 1 << 20;
/// The longest poll interval, in seconds.
const MAX_POLL_SECONDS: u64 = 3600;

/// Everything that the program can be told.
pub static CATALOGUE: Catalogue<Settings> = Catalogue {
    program: "vmkpi-host",
    default_file: "/etc/vmkpi/host.toml",
    // Some ten thousand VMs, a link and a descriptor each.
    max_file_bytes: 4 << 20,
    env_prefix: "VMKPI_HOST_",
    settings: SETTINGS,
    tables: &[],
    peril: "send KPIs elsewhere",
};

/// Every setting, in the order in which the file, the help and the reference show them.
static SETTINGS: &[Setting<Settings>] = &[
    Setting {
        key: "state",
        flag: "state",
        value: "DIR",
        help: "The daemon's own directory, made if it is not there",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.state = p),
        get: |s| Some(s.state.display().to_string()),
        sample: "",
    },
    Setting {
        key: "log_level",
        flag: "log-level",
        value: "FILTER",
        help: "What is logged to standard error: error, warn, info, debug, or TARGET=LEVEL, with commas",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| {
            crate::logging::filter(text)?;
            s.log_level = text.into();
            Ok(())
        },
        get: |s| Some(s.log_level.clone()),
        sample: "",
    },
    Setting {
        key: "libvirt.uri",
        flag: "libvirt.uri",
        value: "URI",
        help: "The hypervisor, as libvirt names it; the connection is read-only, but for context.directory",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| uri(text).map(|uri| s.libvirt_uri = uri),
        get: |s| Some(s.libvirt_uri.clone()),
        sample: "",
    },
    Setting {
        key: "broker.url",
        flag: "broker",
        value: "URL",
        help: "The MQTT broker: mqtt://HOST[:PORT], or mqtts://HOST[:PORT] for TLS; it has to be given",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            s.broker = Some(text.parse().map_err(in_words)?);
            Ok(())
        },
        get: |s| s.broker.as_ref().map(ToString::to_string),
        sample: "\"mqtts://broker.example\"",
    },
    Setting {
        key: "broker.ca_file",
        flag: "broker.ca-file",
        value: "FILE",
        help: "The CAs that may have signed the broker's certificate, PEM; without it those of this system",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.access.ca_file = Some(p)),
        get: |s| shown(s.access.ca_file.as_deref()),
        sample: "\"/etc/vmkpi/broker-ca.pem\"",
    },
    Setting {
        key: "broker.cert_file",
        flag: "broker.cert-file",
        value: "FILE",
        help: "The certificate to show the broker, with its chain, PEM",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.access.cert_file = Some(p)),
        get: |s| shown(s.access.cert_file.as_deref()),
        sample: "\"/etc/vmkpi/host-cert.pem\"",
    },
    Setting {
        key: "broker.key_file",
        flag: "broker.key-file",
        value: "FILE",
        help: "Its private key, PEM, which not everybody may read",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.access.key_file = Some(p)),
        get: |s| shown(s.access.key_file.as_deref()),
        sample: "\"/etc/vmkpi/host-key.pem\"",
    },
    Setting {
        key: "broker.username",
        flag: "broker.username",
        value: "NAME",
        help: "The user's name at the broker, with a password file instead of a credentials file",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            s.access.username = Some(text.into());
            Ok(())
        },
        get: |s| s.access.username.clone(),
        sample: "\"host-7\"",
    },
    Setting {
        key: "broker.password_file",
        flag: "broker.password-file",
        value: "FILE",
        help: "A file with the password alone, which not everybody may read",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.access.password_file = Some(p)),
        get: |s| shown(s.access.password_file.as_deref()),
        sample: "\"/etc/vmkpi/broker-password\"",
    },
    Setting {
        key: "broker.credentials_file",
        flag: "broker.credentials-file",
        value: "FILE",
        help: "A TOML file with the broker's username and password, which not everybody may read",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.access.credentials_file = Some(p)),
        get: |s| shown(s.access.credentials_file.as_deref()),
        sample: "\"/etc/vmkpi/broker.toml\"",
    },
    Setting {
        key: "sign.key_file",
        flag: "sign.key-file",
        value: "FILE",
        help: "The site's Ed25519 private key, PEM, which not everybody may read: every message is signed with it",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| path(text).map(|p| s.sign_key_file = Some(p)),
        get: |s| shown(s.sign_key_file.as_deref()),
        sample: "\"/etc/vmkpi/site-signing.key.pem\"",
    },
    Setting {
        key: "directory.lease",
        flag: "directory.lease",
        value: "SECONDS",
        help: "How long a VM's entry in the Directory lasts without being renewed, 3 to 3600; it is renewed each third of that",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| {
            number(text, MIN_LEASE_SECONDS, MAX_LEASE_SECONDS).map(|n| s.lease_seconds = n)
        },
        get: |s| Some(s.lease_seconds.to_string()),
        sample: "",
    },
    Setting {
        key: "web.listen_address",
        flag: "web.listen-address",
        value: "ADDR",
        help: "Where /metrics is served, ADDRESS:PORT; there is no login, so keep it where only Prometheus comes",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            let wrong = |_| format!("{text:?} is no address: write 127.0.0.1:9878 or [::1]:9878");
            s.listen = text.parse().map_err(wrong)?;
            Ok(())
        },
        get: |s| Some(s.listen.to_string()),
        sample: "",
    },
    Setting {
        key: "outbox.max_bytes",
        flag: "outbox.max-bytes",
        value: "BYTES",
        help: "What the outbox of infrastructure measurements may hold on disk, at least 1048576; beyond, the oldest go and become gaps",
        kind: Kind::Integer,
        reloads: true,
        set: |s, text| number(text, MIN_OUTBOX_BYTES, 1 << 46).map(|n| s.outbox_bytes = n),
        get: |s| Some(s.outbox_bytes.to_string()),
        sample: "",
    },
    Setting {
        key: "link.poll_interval",
        flag: "link.poll-interval",
        value: "SECONDS",
        help: "Ask the guests for new rows each so many seconds, 1 to 3600, instead of having them pushed as they are stored",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| {
            let seconds = number(text, 1, MAX_POLL_SECONDS)?;
            s.poll_interval = Some(Duration::from_secs(seconds));
            Ok(())
        },
        get: |s| s.poll_interval.map(|every| every.as_secs().to_string()),
        sample: "10",
    },
    Setting {
        key: "link.listen_address",
        flag: "link.listen-address",
        value: "ADDR",
        help: "Where guests come in over a network by mutual TLS (tls:HOST:PORT in the guest), ADDRESS:PORT; without it nobody does",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            let wrong = |_| format!("{text:?} is no address: write 0.0.0.0:9879 or [::]:9879");
            s.link_listen = Some(text.parse().map_err(wrong)?);
            Ok(())
        },
        get: |s| s.link_listen.map(|address| address.to_string()),
        sample: "\"0.0.0.0:9879\"",
    },
    Setting {
        key: "link.tls.cert_file",
        flag: "link.tls.cert-file",
        value: "FILE",
        help: "The certificate that guests are shown there, with its chain, PEM; read anew by SIGHUP",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| path(text).map(|p| s.link_cert_file = Some(p)),
        get: |s| shown(s.link_cert_file.as_deref()),
        sample: "\"/etc/vmkpi/link.cert.pem\"",
    },
    Setting {
        key: "link.tls.key_file",
        flag: "link.tls.key-file",
        value: "FILE",
        help: "Its private key, PEM, which not everybody may read",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| path(text).map(|p| s.link_key_file = Some(p)),
        get: |s| shown(s.link_key_file.as_deref()),
        sample: "\"/etc/vmkpi/link.key.pem\"",
    },
    Setting {
        key: "link.tls.ca_file",
        flag: "link.tls.ca-file",
        value: "FILE",
        help: "The CAs that may have signed a guest's certificate, PEM; each of them may name any VM",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| path(text).map(|p| s.link_ca_file = Some(p)),
        get: |s| shown(s.link_ca_file.as_deref()),
        sample: "\"/etc/vmkpi/link-ca.pem\"",
    },
    Setting {
        key: "context.directory",
        flag: "context.directory",
        value: "DIR",
        help: "What VMs are told on CD-ROMs, a folder for each class (infrastructure/); unset, they are told nothing and libvirt is only read",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.context_directory = Some(p)),
        get: |s| shown(s.context_directory.as_deref()),
        sample: "\"/etc/vmkpi/context\"",
    },
    Setting {
        key: "context.images",
        flag: "context.images",
        value: "DIR",
        help: "Where the CD-ROMs' images are kept, this daemon's alone, which QEMU's user may enter; context/ in the state directory without it",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.context_images = Some(p)),
        get: |s| shown(s.context_images.as_deref()),
        sample: "\"/var/lib/vmkpi-host/context\"",
    },
    Setting {
        key: "context.swap",
        flag: "context.swap",
        value: "media|device",
        help: "Whether a CD-ROM is exchanged in its drive, or the drive detached and attached with another, for hypervisors that need it",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| text.parse().map(|swap| s.context_tuning.swap = swap),
        get: |s| Some(s.context_tuning.swap.as_str().to_owned()),
        sample: "",
    },
    Setting {
        key: "context.force",
        flag: "context.force",
        value: "true|false",
        help: "Whether a CD-ROM is taken, in the end, from a guest that has it mounted; its mount is broken then",
        kind: Kind::Boolean,
        reloads: true,
        set: |s, text| boolean(text).map(|force| s.context_tuning.force = force),
        get: |s| Some(s.context_tuning.force.to_string()),
        sample: "",
    },
    Setting {
        key: "guest",
        flag: "guest",
        value: "DOMAIN=URL",
        help: "The link of a domain, by name or UUID, that is not the virtio-serial port in its XML: unix:/PATH, or vsock:CID:PORT with the CID in its XML; any number of them",
        kind: Kind::Map,
        reloads: true,
        set: |s, text| {
            let (domain, url) = domain(text)?;
            let url = url.parse().map_err(in_words)?;
            if let LinkUrl::Tls { .. } = url {
                return Err("guests come in by tls themselves: set link.listen_address".into());
            }
            s.guests.insert(domain, url);
            Ok(())
        },
        get: |s| Some(lines(s.guests.iter())),
        sample: "shop = \"unix:/run/vmkpi/shop.sock\"",
    },
    Setting {
        key: "descriptor",
        flag: "descriptor",
        value: "DOMAIN=FILE",
        help: "The file of a domain's VM descriptor, TOML, JSON or XML, for domains that do not have it in their metadata; any number of them",
        kind: Kind::Map,
        reloads: true,
        set: |s, text| {
            let (domain, file) = domain(text)?;
            s.descriptors.insert(domain, path(file)?);
            Ok(())
        },
        get: |s| {
            let files = s.descriptors.iter();
            Some(lines(files.map(|(domain, file)| (domain, file.display()))))
        },
        sample: "shop = \"/etc/vmkpi/shop.toml\"",
    },
];

fn boolean(text: &str) -> Result<bool, String> {
    let wrong = |_| format!("{text:?} is neither true nor false");
    text.parse().map_err(wrong)
}

/// A path as text.
fn shown(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

fn in_words(error: impl Display) -> String {
    error.to_string()
}

/// A connection's URI is libvirt's to judge, but not when it cannot be one.
fn uri(text: &str) -> Result<String, String> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no URI: write qemu:///system")),
    }
}

/// DOMAIN=VALUE. What libvirt allows as a name has no control characters.
fn domain(text: &str) -> Result<(String, &str), String> {
    let split = text.split_once('=').filter(|(domain, value)| {
        !domain.is_empty() && !value.is_empty() && !domain.chars().any(char::is_control)
    });
    let (domain, value) = split.ok_or_else(|| format!("{text:?}: write DOMAIN=VALUE"))?;
    Ok((domain.to_owned(), value))
}

/// A line for each domain.
fn lines<'a>(of: impl Iterator<Item = (&'a String, impl Display)>) -> String {
    let lines: Vec<String> = of
        .map(|(domain, value)| format!("{domain}={value}"))
        .collect();
    lines.join("\n")
}
