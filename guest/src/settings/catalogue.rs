//! The settings themselves.

use std::fmt::Display;
use std::str::FromStr;

use vmkpi::settings::units::{duration, mode, number, parse_duration, path, show_mode};
use vmkpi::settings::{Catalogue, Kind, Setting, Tables};

use super::{Settings, poll};
use crate::config::MAX_STORE_BYTES;

/// Everything that the program can be told.
pub static CATALOGUE: Catalogue<Settings> = Catalogue {
    program: "vmkpi-guest",
    default_file: "/etc/vmkpi/guest.toml",
    max_file_bytes: 256 << 10,
    env_prefix: "VMKPI_GUEST_",
    settings: SETTINGS,
    tables: &[Tables {
        key: "poll",
        read: poll::read_all,
        write: poll::write_all,
        reference: poll::reference,
    }],
    peril: "name commands to run",
};

/// Every setting, in the order in which the file, the help and the reference show them. `[[poll]]` is
/// beside them: it has no flags.
static SETTINGS: &[Setting<Settings>] = &[
    Setting {
        key: "mount",
        flag: "mount",
        value: "DIR",
        help: "Where to mount the partition; made if it is not there",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.mount = p),
        get: |s| Some(s.mount.display().to_string()),
        sample: "",
    },
    Setting {
        key: "state",
        flag: "state",
        value: "DIR",
        help: "Where the databases are; made if it is not there",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.state = p),
        get: |s| Some(s.state.display().to_string()),
        sample: "",
    },
    Setting {
        key: "link",
        flag: "link",
        value: "URL",
        help: "Where the host is, unless the context says otherwise: virtio-serial:NAME, vsock:2:PORT, tls:HOST:PORT or unix:/PATH",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            let link = text.parse().map_err(|e| format!("{e}"))?;
            s.link = link;
            Ok(())
        },
        get: |s| Some(s.link.to_string()),
        sample: "",
    },
    Setting {
        key: "allow_other",
        flag: "allow-other",
        value: "WHO",
        help: "Who may use the partition: all, owner, or auto (all where the system permits it)",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| text.parse().map(|who| s.allow_other = who),
        get: |s| Some(s.allow_other.as_str().into()),
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
        key: "vm",
        flag: "vm",
        value: "NAME",
        help: "The VM's name in its descriptor, which `vmkpi-guest seal` binds envelopes to",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| {
            let vm = text.parse().map_err(|e| format!("{e}"))?;
            s.vm = Some(vm);
            Ok(())
        },
        get: |s| s.vm.as_ref().map(|vm| vm.as_str().to_owned()),
        sample: "\"shop-frontend-1\"",
    },
    Setting {
        key: "primary_key_file",
        flag: "primary-key-file",
        value: "FILE",
        help: "The owner's RSA public key (PEM, 3072 bits or more), shown as primary-key.pem at the top of the partition",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.primary_key_file = Some(p)),
        get: |s| s.primary_key_file.as_ref().map(|p| p.display().to_string()),
        sample: "\"/etc/vmkpi/primary-key.pem\"",
    },
    Setting {
        key: "link_tls.cert_file",
        flag: "link.tls.cert-file",
        value: "FILE",
        help: "The certificate that a host on a network is shown, with its chain, PEM; it names the VM (urn:vmkpi:SITE:VM)",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.link_tls.cert = Some(p)),
        get: |s| s.link_tls.cert.as_ref().map(|p| p.display().to_string()),
        sample: "\"/etc/vmkpi/vm.cert.pem\"",
    },
    Setting {
        key: "link_tls.key_file",
        flag: "link.tls.key-file",
        value: "FILE",
        help: "Its private key, PEM, which not everybody may read",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.link_tls.key = Some(p)),
        get: |s| s.link_tls.key.as_ref().map(|p| p.display().to_string()),
        sample: "\"/etc/vmkpi/vm.key.pem\"",
    },
    Setting {
        key: "link_tls.ca_file",
        flag: "link.tls.ca-file",
        value: "FILE",
        help: "The CAs that may have signed a host's certificate, PEM; no others count",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.link_tls.ca = Some(p)),
        get: |s| s.link_tls.ca.as_ref().map(|p| p.display().to_string()),
        sample: "\"/etc/vmkpi/link-ca.pem\"",
    },
    Setting {
        key: "protection.legislations",
        flag: "protection.legislations",
        value: "LIST",
        help: "The legislations under which everything is delivered, such as SE,EU; elsewhere, and where the context names none, points are held",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| list(text).map(|all| s.protection.legislations = all),
        get: |s| Some(s.protection.allowed()).filter(|all| !all.is_empty()),
        sample: "\"SE,EU\"",
    },
    Setting {
        key: "protection.points",
        flag: "protection.points",
        value: "LIST",
        help: "The points that are held elsewhere, such as unencrypted/patient-*; without it all of them",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| list(text).map(|all| s.protection.points = all),
        get: |s| {
            let all = s.protection.points.iter().map(ToString::to_string);
            Some(all.collect::<Vec<_>>().join(",")).filter(|all| !all.is_empty())
        },
        sample: "\"unencrypted/patient-*,encrypted/*\"",
    },
    Setting {
        key: "limits.store_bytes",
        flag: "max-store-bytes",
        value: "N",
        help: "Bytes of one store, at most 1048576; more is EFBIG",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| {
            let n = number(text, 1, MAX_STORE_BYTES as u64)?;
            s.limits.store_bytes = usize::try_from(n).map_err(|e| e.to_string())?;
            Ok(())
        },
        get: |s| Some(s.limits.store_bytes.to_string()),
        sample: "",
    },
    Setting {
        key: "limits.columns",
        flag: "max-columns",
        value: "N",
        help: "Columns of one table, at most 1900; more is EFBIG",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| {
            let n = number(text, 1, 1_900)?;
            s.limits.columns = usize::try_from(n).map_err(|e| e.to_string())?;
            Ok(())
        },
        get: |s| Some(s.limits.columns.to_string()),
        sample: "",
    },
    Setting {
        key: "limits.files",
        flag: "max-files",
        value: "N",
        help: "Names in each directory, removed ones included, at most 10000; more is ENOSPC",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| {
            let n = number(text, 1, 10_000)?;
            s.limits.files = usize::try_from(n).map_err(|e| e.to_string())?;
            Ok(())
        },
        get: |s| Some(s.limits.files.to_string()),
        sample: "",
    },
    Setting {
        key: "limits.database_bytes",
        flag: "max-database-bytes",
        value: "N",
        help: "Bytes of each database, at least 65536; acknowledged rows go, then ENOSPC",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| number(text, 65_536, 1 << 46).map(|n| s.limits.database_bytes = n),
        get: |s| Some(s.limits.database_bytes.to_string()),
        sample: "",
    },
    Setting {
        key: "limits.log_bytes",
        flag: "max-log-bytes",
        value: "N",
        help: "Bytes of each database's write-ahead log, at least 1048576, which another program's long read makes grow; more is EAGAIN",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| number(text, 1 << 20, 1 << 46).map(|n| s.limits.log_bytes = n),
        get: |s| Some(s.limits.log_bytes.to_string()),
        sample: "",
    },
    Setting {
        key: "retention.rows",
        flag: "retain-rows",
        value: "N",
        help: "Rows to keep of each table; older ones go when they are acknowledged",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| number(text, 0, i64::MAX as u64).map(|n| s.limits.retain_rows = n),
        get: |s| Some(s.limits.retain_rows.to_string()),
        sample: "",
    },
    Setting {
        key: "retention.bytes",
        flag: "retain-bytes",
        value: "N",
        help: "Bytes of rows to keep of each table; likewise",
        kind: Kind::Integer,
        reloads: false,
        set: |s, text| number(text, 0, i64::MAX as u64).map(|n| s.limits.retain_bytes = n),
        get: |s| Some(s.limits.retain_bytes.to_string()),
        sample: "",
    },
    Setting {
        key: "retention.age",
        flag: "retain-age",
        value: "DURATION",
        help: "How long to keep rows, such as 12h or 7d; likewise, and rows of a table that no host has ever asked for in any case",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| parse_duration(text).map(|d| s.limits.retain_age = d),
        get: |s| Some(duration(s.limits.retain_age)),
        sample: "",
    },
    Setting {
        key: "retention.drop_unacknowledged",
        flag: "drop-unacknowledged",
        value: "BOOL",
        help: "Whether the three bounds above count for rows that nobody has acknowledged, too, and such rows go before a writer is told ENOSPC; each loss is counted and told as a gap",
        kind: Kind::Boolean,
        reloads: false,
        set: |s, text| {
            s.limits.drop_unacknowledged = text
                .parse()
                .map_err(|_| format!("{text:?} is neither true nor false"))?;
            Ok(())
        },
        get: |s| Some(s.limits.drop_unacknowledged.to_string()),
        sample: "",
    },
    Setting {
        key: "access.owner",
        flag: "owner",
        value: "USER",
        help: "The owner of the partition's files, by name or number; otherwise who runs the program",
        kind: Kind::Account,
        reloads: false,
        set: |s, text| super::accounts::name(text).map(|name| s.owner = Some(name)),
        get: |s| s.owner.clone(),
        sample: "\"root\"",
    },
    Setting {
        key: "access.group",
        flag: "group",
        value: "GROUP",
        help: "Their group, by name or number; otherwise that of who runs the program",
        kind: Kind::Account,
        reloads: false,
        set: |s, text| super::accounts::name(text).map(|name| s.group = Some(name)),
        get: |s| s.group.clone(),
        sample: "\"root\"",
    },
    Setting {
        key: "access.file_mode",
        flag: "file-mode",
        value: "MODE",
        help: "Permission bits of files, in octal",
        kind: Kind::Mode,
        reloads: false,
        set: |s, text| mode(text).map(|m| s.file_mode = m),
        get: |s| Some(show_mode(s.file_mode)),
        sample: "",
    },
    Setting {
        key: "access.directory_mode",
        flag: "directory-mode",
        value: "MODE",
        help: "Permission bits of directories, in octal",
        kind: Kind::Mode,
        reloads: false,
        set: |s, text| mode(text).map(|m| s.directory_mode = m),
        get: |s| Some(show_mode(s.directory_mode)),
        sample: "",
    },
    Setting {
        key: "context.mount",
        flag: "context-mount",
        value: "DIR",
        help: "Where to mount the context partition; made if it is not there. Without it there is none",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| path(text).map(|p| s.context.mount = Some(p)),
        get: |s| s.context.mount.as_ref().map(|p| p.display().to_string()),
        sample: "\"/context\"",
    },
    Setting {
        key: "context.classes",
        flag: "context-classes",
        value: "CLASS,...",
        help: "The classes of contexts that are shown, the one that wins first; media of others are ignored",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| super::context::classes(text).map(|classes| s.context.classes = classes),
        get: |s| Some(super::context::show_classes(&s.context.classes)),
        sample: "",
    },
    Setting {
        key: "context.hooks",
        flag: "context-hooks",
        value: "DIR",
        help: "Executables that are run after each change of the context, in the order of their names; root's alone to write",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| path(text).map(|p| s.context.hooks = p),
        get: |s| Some(s.context.hooks.display().to_string()),
        sample: "",
    },
    Setting {
        key: "context.hook_timeout",
        flag: "context-hook-timeout",
        value: "DURATION",
        help: "When a hook is killed, with its process group",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| parse_duration(text).map(|d| s.context.hook_timeout = d),
        get: |s| Some(duration(s.context.hook_timeout)),
        sample: "",
    },
    Setting {
        key: "context.linger",
        flag: "context-linger",
        value: "DURATION",
        help: "How long a layer is shown after it has gone, unless another of its class comes",
        kind: Kind::Text,
        reloads: true,
        set: |s, text| parse_duration(text).map(|d| s.context.linger = d),
        get: |s| Some(duration(s.context.linger)),
        sample: "",
    },
    Setting {
        key: "context.poll_interval",
        flag: "context-poll-interval",
        value: "DURATION",
        help: "How often the kernel is to ask a CD-ROM drive whether it has another medium, 20ms or more",
        kind: Kind::Text,
        reloads: false,
        set: |s, text| parse_duration(text).map(|d| s.context.poll_interval = d),
        get: |s| Some(duration(s.context.poll_interval)),
        sample: "",
    },
    Setting {
        key: "context.directories",
        flag: "context-directory",
        value: "CLASS=DIR",
        help: "A layer from the image itself, beneath the media of its class, read at start and at SIGHUP; any number of them",
        kind: Kind::Map,
        reloads: true,
        set: |s, text| s.context.add_directory(text),
        get: |s| Some(s.context.show_directories()),
        sample: "service = \"/etc/vmkpi/context\"",
    },
];

/// A list with commas.
fn list<T: FromStr, C: FromIterator<T>>(text: &str) -> Result<C, String>
where
    T::Err: Display,
{
    let one = |part: &str| part.trim().parse::<T>().map_err(|e| e.to_string());
    text.split(',').map(one).collect()
}
