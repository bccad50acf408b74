//! The configuration of a mosquitto, as text: 2.0.11 and later, 2.1 too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use vmkpi::name::Label;
use vmkpi::topic::echo;

use super::party::Grant;
use super::rights::Access;

/// The largest packet, in bytes: a sample of 1.5 MiB is one of 2 MiB once it is base64, and a Consumer reads 4 MiB.
const MAX_PACKET_BYTES: usize = 4 << 20;
/// What a publisher may have unacknowledged: as much as a host has.
const MAX_IN_FLIGHT: usize = 1000;
/// What waits for one subscriber that is away or slow: messages and bytes.
const MAX_QUEUED: (usize, usize) = (100_000, 256 << 20);

/// The port of MQTT over TLS (IANA: secure-mqtt).
pub const PORT: u16 = 8883;

/// Where everything is.
#[derive(Debug)]
pub struct Places {
    /// Where it listens; everywhere, at [`PORT`], without.
    pub listen: Option<SocketAddr>,
    /// The CA's certificate, the broker's, and its private key.
    pub tls: [PathBuf; 3],
    /// The ACL.
    pub acl: PathBuf,
    /// What it keeps.
    pub state: PathBuf,
}

/// The configuration, for who is let in by certificate alone.
pub fn configuration(places: &Places) -> String {
    let listen = match places.listen {
        Some(address) => format!("{} {}", address.port(), address.ip()),
        None => PORT.to_string(),
    };
    let [ca, cert, key] = places.tls.each_ref().map(|path| path.display());
    let (acl, state) = (places.acl.display(), places.state.display());
    let (queued, queued_bytes) = MAX_QUEUED;
    format!(
        "\
# mosquitto, 2.0.11 or later, for vmkpi. This is all of its configuration: mosquitto -c THIS_FILE.
# Made by `vmkpi broker --print-config mosquitto`.

# One ACL and one answer to strangers for every listener, those too that are added here. (per_listener_settings is left
# out: it is deprecated in 2.1.)
allow_anonymous false
acl_file {acl}

listener {listen}
# Who shows no certificate of this CA gets no further than the handshake.
cafile {ca}
certfile {cert}
keyfile {key}
require_certificate true
# The user is the certificate's common name (CN): what the ACL knows.
use_identity_as_username true
# 2.0.11 would speak 1.1 as well.
tls_version tlsv1.2
# A message does not wait for the next one.
set_tcp_nodelay true

# Client ids are left to the clients. use_username_as_clientid would give all connections of a user one id, and each
# would end the one before: a host has two, and the hosts of a site share a user. Ours are random instead.

# max_connections is left out: 2.0.11 counts every connection there ever was. LimitNOFILE of the service bounds them.

# 1.5 MiB of a sample are 2 MiB in a message; 2.1 would end at 2,000,000 bytes.
max_packet_size {MAX_PACKET_BYTES}
# What a publisher may have unacknowledged; with the 20 of the default a far broker is a slow one.
max_inflight_messages {MAX_IN_FLIGHT}
# What waits for one subscriber. Over it, messages are dropped for that one; a Consumer that confirms asks for them
# again. (0, no limit, makes 2.0.11 hang up on whoever is denied a topic.)
max_queued_messages {queued}
max_queued_bytes {queued_bytes}
# Who has said nothing for one and a half times this is gone.
max_keepalive 120
# MQTT 3.1.1 has sessions without an end. A relay that is away has a week; nobody fills memory for longer.
persistent_client_expiration 8d

# The Directory's leases and the queues of who is away, over a restart. It is no durability: what came since the last
# save dies with a killed mosquitto. That is what confirmations are for ([[confirm]] in descriptors).
persistence true
persistence_location {state}
autosave_interval 300
# Who may not write any more has no retained message left either.
check_retain_source true

log_timestamp_format %Y-%m-%dT%H:%M:%S%z
"
    )
}

/// The ACL. A `pattern` counts for every user, also for those who have no business there: there is one, for what
/// nobody else hears.
pub fn acl(users: &BTreeMap<Label, Vec<Grant>>) -> String {
    let mut text = format!(
        "\
# Who may do what, by the common name of its certificate. What is not here is denied.
# Made by `vmkpi broker --print-config mosquitto`; mosquitto reads it again on SIGHUP.

# Everybody's own messages come back: so `vmkpi directory` knows that everything retained has come.
pattern readwrite {}
",
        echo("%c")
    );
    for (name, grants) in users {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\nuser {name}");
        for grant in grants {
            let _ = writeln!(text, "# {} of {}", grant.role.words(), grant.site);
            for right in &grant.rights {
                let access = match right.access {
                    Access::Read => "read",
                    Access::Write => "write",
                };
                let _ = writeln!(text, "topic {access} {}", right.filter);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::party::{Party, grants};
    use super::super::rights::Role;
    use super::*;

    #[test]
    fn an_acl_has_a_section_for_each_user_and_one_pattern() {
        let sites: Vec<Label> = vec!["ac me".parse().unwrap(), "a+#%".parse().unwrap()];
        let of = |text: &str| text.parse::<Party>().unwrap();
        let (hosts, collect) = (of("hosts@*"), of("collect@ac me"));
        let users = grants(&sites, [(Role::Host, &hosts), (Role::Consumer, &collect)]).unwrap();
        let text = acl(&users);
        let rules: Vec<&str> = text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
            .collect();
        assert_eq!(rules[0], "pattern readwrite vmkpi/v1/echo/%c");
        let rules = &rules[1..];
        assert_eq!(rules[0], "user collect");
        assert_eq!(rules[1], "topic read vmkpi/v1/ac me/data/#");
        assert_eq!(rules[8], "user hosts");
        assert!(rules.contains(&"topic write vmkpi/v1/a%2B%23%25/data/#"));
        assert_eq!(rules.len(), 2 + 7 + 2 * 5);
        let known = ["user ", "topic read ", "topic write "];
        assert!(rules.iter().all(|r| known.iter().any(|k| r.starts_with(k))));
    }
}
