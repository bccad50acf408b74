//! The tree of topics, to a plain MQTT 3.1.1 client: each filter that the documentation names brings what it promises
//! and nothing else, also where names hold what MQTT keeps for itself.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vmkpi_tests::chain::{Broker, Chain};
use vmkpi_tests::mqtt::{Received, Subscriber};
use vmkpi_tests::wait_for;

const DOCUMENTATION: &str = include_str!("../../docs/MESSAGES.md");
const SITE: &str = "ac me+";
const VM: &str = "shop#1 100%";
const SPECIFIER: &str = "every+row";
const KPI: &str = "we+b%2F#";
const DESCRIPTOR: &str = r#"vm = "shop#1 100%"
primary_site = "ac me+"
[[monitor]]
id = "every+row"
point = "unencrypted/*"
[[monitor]]
id = "blobs"
point = "encrypted/*"
[[monitor]]
id = "infra"
point = "infra/*"
interval = "500ms"
"#;
/// What no program of this chain says: of a device, on other branches, of other sites and VMs.
const OTHERS: [&str; 9] = [
    "vmkpi/v1/ac me%2B/data/shop%231 100%25/infra/infra/block/vda",
    "vmkpi/v1/ac me%2B/confirm/collect/shop%231 100%25",
    "vmkpi/v1/ac me%2B/query/collect/shop%231 100%25",
    "vmkpi/v1/ac me%2B/answer/collect/shop%231 100%25",
    "vmkpi/v1/ac me%2B/directory/producer/other",
    "vmkpi/v1/ac me%2B/directory/consumer/collect",
    "vmkpi/v1/ac me%2B/data/other/every%2Brow/unencrypted/we%2Bb%252F%23",
    "vmkpi/v1/other/data/shop%231 100%25/every%2Brow/unencrypted/we%2Bb%252F%23",
    "vmkpi/v1/other/confirm/collect/shop%231 100%25",
];

/// A level as it was before it was encoded.
fn decoded(level: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = level.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let hex = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex)?, 16)?);
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    Ok(String::from_utf8(bytes)?)
}

/// The filters that the documentation names, with our names in place of its words.
fn documented() -> Vec<(String, String)> {
    let rows = DOCUMENTATION
        .lines()
        .filter_map(|l| l.strip_prefix("| `vmkpi/v1/"));
    let cells = rows.filter_map(|row| row.split('|').next());
    let filters = cells.flat_map(|cell| cell.split('`'));
    let of_ours = filters.map(|text| text.trim_start_matches("vmkpi/v1/"));
    of_ours
        .filter(|text| text.contains('/'))
        .map(|text| {
            let filter = text
                .replace("SITE", "ac me%2B")
                .replace("VM", "shop%231 100%25")
                .replace("SPECIFIER", "every%2Brow")
                .replace("POINT", "unencrypted/we%2Bb%252F%23");
            (text.to_owned(), format!("vmkpi/v1/{filter}"))
        })
        .collect()
}

/// Whether a filter, as the documentation writes it, promises a topic of these decoded levels.
fn promises(filter: &str, levels: &[String]) -> Result<bool> {
    let [root, version, site, branch @ ..] = levels else {
        return Ok(false);
    };
    ensure!(root == "vmkpi" && version == "v1", "{levels:?}");
    let of = |names: &[&str]| {
        branch.len() >= names.len()
            && names
                .iter()
                .zip(branch)
                .all(|(n, b)| n.is_empty() || n == b)
    };
    let ours = site == SITE;
    Ok(match filter {
        "+/data/#" => of(&["data"]),
        "SITE/#" => ours,
        "SITE/data/#" => ours && of(&["data"]),
        "SITE/data/VM/#" => ours && of(&["data", VM]),
        "SITE/data/+/SPECIFIER/#" => ours && of(&["data", "", SPECIFIER]),
        "SITE/data/VM/SPECIFIER/#" => ours && of(&["data", VM, SPECIFIER]),
        "SITE/data/+/+/POINT" => ours && of(&["data", "", "", "unencrypted", KPI]),
        "SITE/data/+/+/unencrypted/+" => ours && of(&["data", "", "", "unencrypted"]),
        "SITE/data/+/+/infra/#" => ours && of(&["data", "", "", "infra"]),
        "SITE/confirm/#" => ours && of(&["confirm"]),
        "SITE/query/#" => ours && of(&["query"]),
        "SITE/answer/#" => ours && of(&["answer"]),
        "SITE/directory/producer/#" => ours && of(&["directory", "producer"]),
        "SITE/directory/consumer/#" => ours && of(&["directory", "consumer"]),
        other => anyhow::bail!("{other} is documented, and nobody says what it promises"),
    })
}

fn levels(topic: &str) -> Result<Vec<String>> {
    topic.split('/').map(decoded).collect()
}

fn publish(broker: &Broker, topic: &str) -> Result<()> {
    let port = broker.port().to_string();
    let sent = Command::new("mosquitto_pub")
        .args([
            "-V", "311", "-p", &port, "-q", "1", "-t", topic, "-m", topic,
        ])
        .status()?;
    ensure!(sent.success(), "not published");
    Ok(())
}

/// What makes two messages the same one.
fn same(a: &Received, b: &Received) -> bool {
    (&a.topic, &a.payload) == (&b.topic, &b.payload)
}

#[test]
fn each_documented_filter_brings_what_it_promises_to_an_old_client() -> Result<()> {
    let chain = Chain::start(DESCRIPTOR)?;
    let address = chain.broker.address();
    let filters = documented();
    ensure!(filters.len() == 14, "{filters:?}");
    let subscribers = filters
        .iter()
        .map(|(text, filter)| Ok((text, Subscriber::start(address, filter)?)))
        .collect::<Result<Vec<_>>>()?;
    let all = Subscriber::start(address, "vmkpi/v1/#")?;
    let store = |area: &str, name: &str| {
        std::fs::write(chain.mount().join(area).join(name), "n\n1\n").context("a store")
    };
    store("unencrypted", KPI)?;
    store("unencrypted", "other")?;
    store("encrypted", KPI)?;
    for topic in OTHERS {
        publish(&chain.broker, topic)?;
    }
    let kinds = [
        &["data", VM, SPECIFIER, "unencrypted", KPI][..],
        &["data", VM, SPECIFIER, "unencrypted", "other"],
        &["data", VM, "blobs", "encrypted", KPI],
        &["data", VM, "infra", "infra", "cpu"],
    ];
    let came = |kind: &[&str]| {
        let is = |m: &Received| {
            levels(&m.topic).is_ok_and(|l| l[3..].iter().zip(kind).all(|(a, b)| a == b))
        };
        all.messages(0).iter().any(is)
    };
    wait_for(30, "messages of every kind", || {
        kinds.iter().all(|k| came(k)).then_some(())
    })
    .with_context(|| chain.words())?;
    let everything = all.messages(0);
    ensure!(
        OTHERS
            .iter()
            .all(|o| everything.iter().any(|m| m.topic == *o)),
        "all of them"
    );
    for (filter, subscriber) in &subscribers {
        let mut promised = Vec::new();
        for message in &everything {
            if promises(filter, &levels(&message.topic)?)? {
                promised.push(message);
            }
        }
        ensure!(!promised.is_empty(), "{filter} was not tested");
        let has = |m: &Received| subscriber.messages(0).iter().any(|r| same(r, m));
        wait_for(20, filter, || promised.iter().all(|m| has(m)).then_some(()))?;
        for message in subscriber.messages(0) {
            let levels = levels(&message.topic)?;
            ensure!(
                promises(filter, &levels)?,
                "{filter} brings {}",
                message.topic
            );
        }
    }
    Ok(())
}
