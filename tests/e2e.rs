//! End to end, over real parts: FUSE, SQLite, a broker, libvirt's test driver, Prometheus' promtool.

#[path = "e2e/admitted.rs"]
mod admitted;
#[path = "e2e/betrayed.rs"]
mod betrayed;
#[path = "e2e/broker.rs"]
mod broker;
#[path = "e2e/chained.rs"]
mod chained;
#[path = "e2e/cli.rs"]
mod cli;
#[path = "e2e/collected.rs"]
mod collected;
#[path = "e2e/demo.rs"]
mod demo;
#[path = "e2e/directory.rs"]
mod directory;
#[path = "e2e/endpoints.rs"]
mod endpoints;
#[path = "e2e/exported.rs"]
mod exported;
#[path = "e2e/faults.rs"]
mod faults;
#[path = "e2e/forged.rs"]
mod forged;
#[path = "e2e/held.rs"]
mod held;
#[path = "e2e/intruded.rs"]
mod intruded;
#[path = "e2e/joined.rs"]
mod joined;
#[path = "e2e/kept.rs"]
mod kept;
#[path = "e2e/keys.rs"]
mod keys;
#[path = "e2e/partition.rs"]
mod partition;
#[path = "e2e/published.rs"]
mod published;
#[path = "e2e/queried.rs"]
mod queried;
#[path = "e2e/relayed.rs"]
mod relayed;
#[path = "e2e/replaced.rs"]
mod replaced;
#[path = "e2e/respecified.rs"]
mod respecified;
#[path = "e2e/secured.rs"]
mod secured;
#[path = "e2e/soak.rs"]
mod soak;
#[path = "e2e/thief.rs"]
mod thief;
#[path = "e2e/tree.rs"]
mod tree;
#[path = "e2e/vouched.rs"]
mod vouched;
