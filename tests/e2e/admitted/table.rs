//! Who may read and write what at a broker of two sites.

/// Everybody who has a certificate. `nobody` is not in the ACL.
pub const USERS: [&str; 9] = [
    "hosts", "collect", "other", "reader", "out", "in", "guests", "globex", "nobody",
];
/// Who they are. `guests` and `globex` are a host and a Consumer of another site.
pub const OPTIONS: [&str; 10] = [
    "--site=acme",
    "--site=glo bex+",
    "--host=hosts@acme",
    "--consumer=collect@acme",
    "--consumer=other@acme",
    "--reader=reader@acme",
    "--relay-out=out@acme",
    "--relay-in=in@acme",
    "--host=guests@glo bex+",
    "--consumer=globex@glo bex+",
];

/// A topic, who may write it, and who may read it; all others may not.
pub type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);
pub const TABLE: [Row; 27] = [
    (
        "vmkpi/v1/acme/data/shop/load/unencrypted/web",
        &["hosts", "in"],
        &["collect", "other", "reader", "out"],
    ),
    (
        "vmkpi/v1/acme/directory/producer/shop",
        &["hosts", "in"],
        &["collect", "other", "reader", "out"],
    ),
    (
        "vmkpi/v1/acme/answer/collect/shop",
        &["hosts", "in"],
        &["collect", "out"],
    ),
    (
        "vmkpi/v1/acme/answer/other/shop",
        &["hosts", "in"],
        &["other", "out"],
    ),
    (
        "vmkpi/v1/acme/directory/consumer/collect",
        &["collect", "out"],
        &["collect", "other", "reader", "in"],
    ),
    (
        "vmkpi/v1/acme/directory/consumer/other",
        &["other", "out"],
        &["collect", "other", "reader", "in"],
    ),
    (
        "vmkpi/v1/acme/directory/consumer/collect/more",
        &["out"],
        &["collect", "other", "reader", "in"],
    ),
    (
        "vmkpi/v1/acme/directory/consumer/hosts",
        &["out"],
        &["collect", "other", "reader", "in"],
    ),
    (
        "vmkpi/v1/acme/confirm/collect/shop",
        &["collect", "out"],
        &["hosts", "in"],
    ),
    (
        "vmkpi/v1/acme/confirm/other/shop",
        &["other", "out"],
        &["hosts", "in"],
    ),
    (
        "vmkpi/v1/acme/query/collect/shop",
        &["collect", "out"],
        &["hosts", "in"],
    ),
    (
        "vmkpi/v1/acme/query/other/shop",
        &["other", "out"],
        &["hosts", "in"],
    ),
    // The other site, whose name has a space and a character of MQTT's own.
    (
        "vmkpi/v1/glo bex%2B/data/shop/load/infra/cpu",
        &["guests"],
        &["globex"],
    ),
    (
        "vmkpi/v1/glo bex%2B/directory/producer/shop",
        &["guests"],
        &["globex"],
    ),
    (
        "vmkpi/v1/glo bex%2B/answer/globex/shop",
        &["guests"],
        &["globex"],
    ),
    (
        "vmkpi/v1/glo bex%2B/directory/consumer/globex",
        &["globex"],
        &["globex"],
    ),
    (
        "vmkpi/v1/glo bex%2B/confirm/globex/shop",
        &["globex"],
        &["guests"],
    ),
    (
        "vmkpi/v1/glo bex%2B/query/globex/shop",
        &["globex"],
        &["guests"],
    ),
    ("vmkpi/v1/glo bex%2B/confirm/collect/shop", &[], &["guests"]),
    // What is nobody's.
    ("vmkpi/v1/third/data/shop/load/unencrypted/web", &[], &[]),
    ("vmkpi/v1/acme/directory/shop", &[], &[]),
    ("vmkpi/v1/acme/other/shop", &[], &[]),
    ("vmkpi/v1/acme", &[], &[]),
    ("vmkpi/v2/acme/data/shop/load/unencrypted/web", &[], &[]),
    ("data/shop", &[], &[]),
    ("$SYS/broker/version", &[], &[]),
    ("$CONTROL/dynamic-security/v1", &[], &[]),
];
