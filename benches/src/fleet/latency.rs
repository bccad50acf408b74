//! From close() in a guest to a subscriber at the broker: a real `vmkpi-guest` stores numbered rows through its
//! partition, and a subscriber notes when each of them came.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rumqttc::{Client, Event, MqttOptions, NetworkOptions, Packet, QoS};
use vmkpi::message::{Body, Event as Message, SampleBody};
use vmkpi::value::Value;

use super::lab::until;

/// A subscriber to what one VM publishes at once.
pub struct Subscriber {
    client: Client,
    came: Receiver<(i64, Instant)>,
}

impl Subscriber {
    /// Subscribes, and waits until the subscription stands.
    pub fn start(broker: SocketAddr, vm: &str) -> Result<Self> {
        let mut options = MqttOptions::new("bench", (broker.ip().to_string(), broker.port()));
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options
            .set_network_options(network)
            .set_unlimited_incoming_packet_size();
        let (client, mut connection) = Client::builder(options).capacity(16).build();
        let (tell, came) = channel();
        let (stand, stands) = channel();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(stand.send(())),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let now = Instant::now();
                        for number in numbers(&publish.payload) {
                            if tell.send((number, now)).is_err() {
                                return;
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        client.subscribe(format!("vmkpi/v1/bench/data/{vm}/now/#"), QoS::AtLeastOnce)?;
        stands
            .recv_timeout(Duration::from_secs(60))
            .context("no subscription")?;
        Ok(Self { client, came })
    }

    /// Stores a row again and again until one arrives: the guest has been subscribed to.
    pub fn warm(&self, directory: &Path) -> Result<()> {
        until("a first row arrives", || {
            let stored = std::fs::write(directory.join("now"), "n\n-1\n").is_ok();
            stored && self.came.recv_timeout(Duration::from_millis(200)).is_ok()
        })
    }

    /// Stores a row each `every` for so long, and gives how long each took from the call of close() to here, and
    /// how long close() took, which includes the disk; in order.
    pub fn measure(
        &self,
        directory: &Path,
        every: Duration,
        run: Duration,
    ) -> Result<[Vec<Duration>; 2]> {
        let file = directory.join("now");
        let (mut closed, mut closes) = (HashMap::new(), Vec::new());
        let begin = Instant::now();
        for number in 0.. {
            let due = begin + every * number;
            if due > begin + run {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut store = File::create(&file)?;
            store.write_all(format!("n\n{number}\n").as_bytes())?;
            let closing = Instant::now();
            drop(store);
            closes.push(closing.elapsed());
            closed.insert(i64::from(number), closing);
        }
        let mut ways = Vec::new();
        until("every row arrives", || {
            while let Ok((number, at)) = self.came.try_recv() {
                let stored = closed.remove(&number);
                ways.extend(stored.map(|stored| at.saturating_duration_since(stored)));
            }
            closed.is_empty()
        })?;
        ways.sort();
        closes.sort();
        Ok([ways, closes])
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
    }
}

/// The numbers of the rows in a message.
fn numbers(payload: &[u8]) -> Vec<i64> {
    let Ok(Body::Raw(samples)) = Message::decode(payload).map(|message| message.body) else {
        return Vec::new();
    };
    let number = |body: SampleBody| match body {
        SampleBody::Values(values) => match values.row.first() {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        },
        SampleBody::Data(_) => None,
    };
    samples.into_iter().filter_map(|s| number(s.body)).collect()
}
