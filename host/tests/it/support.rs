//! A broker, a subscriber, guests, and waiting.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event as MqttEvent, MqttOptions, Packet, QoS};
use vmkpi::broker::Broker;
use vmkpi::clock::Timestamp;
use vmkpi::delivery::spool::{Spool, SpoolLimits};
use vmkpi::link::{HostMessage, LineReader, Payload, encode};
use vmkpi::message::{Body, Event};
use vmkpi::position::{RowKey, StreamId};
use vmkpi::topic::Branch;
use vmkpi::value::Value;
use vmkpi_host::daemon::{self, Config};
use vmkpi_host::link::Limits;

/// Long enough for a machine that has other things to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, and says `what` if it never does.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A mosquitto with a port and a folder of its own; killed at the end.
pub struct Mosquitto {
    pub port: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts it with `options` besides the listener.
    pub fn start(options: &str) -> Self {
        let mut broker = Self {
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            child: None,
        };
        let config = format!(
            "listener {} 127.0.0.1\nset_tcp_nodelay true\nmax_queued_messages 0\n{options}\n",
            broker.port
        );
        std::fs::write(broker.dir.path().join("conf"), config).unwrap();
        broker.restart();
        broker
    }

    /// Where a file of the configuration may lie.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn restart(&mut self) {
        self.kill();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.dir.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        self.child = Some(child);
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < DEADLINE, "mosquitto never listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// The same, for a publisher.
    pub fn broker(&self) -> Broker {
        Broker::anonymous(self.url().parse().unwrap())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A topic and what was published there.
pub type Message = (String, Vec<u8>);

/// What a subscriber got, as it came.
#[derive(Clone, Default)]
pub struct Subscriber {
    messages: Arc<Mutex<Vec<Message>>>,
    subscriptions: Arc<Mutex<u32>>,
}

impl Subscriber {
    /// Subscribes to everything of `broker`, and again after each connection that broke.
    pub async fn start(broker: &Mosquitto) -> Self {
        let subscriber = Self::default();
        let mut options = MqttOptions::new("test-subscriber", ("127.0.0.1", broker.port));
        options
            .set_keep_alive(2)
            .set_unlimited_incoming_packet_size();
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(10).build();
        let to = subscriber.clone();
        tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(MqttEvent::Incoming(Packet::ConnAck(_))) => {
                        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
                    }
                    Ok(MqttEvent::Incoming(Packet::SubAck(_))) => {
                        *to.subscriptions.lock().unwrap() += 1;
                    }
                    Ok(MqttEvent::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        let message = (topic, publish.payload.to_vec());
                        to.messages.lock().unwrap().push(message);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        until("the subscriber subscribes", || {
            *subscriber.subscriptions.lock().unwrap() > 0
        })
        .await;
        subscriber
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    pub fn payloads(&self) -> Vec<String> {
        let text = |(_, p): Message| String::from_utf8(p).unwrap();
        self.messages().into_iter().map(text).collect()
    }

    /// What was delivered.
    pub fn events(&self) -> Vec<Event> {
        let delivered = |(topic, _): &&Message| Branch::of(topic) == Some(Branch::Data);
        let decode = |(_, p): &Message| Event::decode(p).unwrap();
        let messages = self.messages.lock().unwrap();
        messages.iter().filter(delivered).map(decode).collect()
    }

    /// How often each `_seq` of a VM's point came, over all streams.
    pub fn seqs(&self, vm: &str, point: &str) -> BTreeMap<u64, usize> {
        let mut seqs = BTreeMap::new();
        for event in self.events() {
            if event.vm.as_str() != vm || event.point.to_string() != point {
                continue;
            }
            if let Body::Raw(samples) = event.body {
                for sample in samples {
                    *seqs.entry(sample.seq).or_insert(0) += 1;
                }
            }
        }
        seqs
    }
}

/// A guest on a Unix socket: the library's spool, so that it speaks as it should.
#[derive(Clone)]
pub struct Guest {
    pub path: PathBuf,
    spool: Arc<Mutex<Spool>>,
}

impl Guest {
    pub fn start(path: &Path) -> Self {
        Self::start_keeping(path, 0)
    }

    /// The same, with so many acknowledged rows kept.
    pub fn start_keeping(path: &Path, acknowledged_rows: usize) -> Self {
        let stream = StreamId(u128::from(getrandom::u64().unwrap()));
        let limits = SpoolLimits {
            rows: 1_000_000,
            acknowledged_rows,
            ..SpoolLimits::default()
        };
        let guest = Self {
            path: path.to_owned(),
            spool: Arc::new(Mutex::new(Spool::new(stream, limits))),
        };
        let listener = UnixListener::bind(path).unwrap();
        let serve = guest.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve.session(&stream.unwrap());
            }
        });
        guest
    }

    pub fn store(&self, point: &str, value: i64) {
        self.spool.lock().unwrap().append(
            &point.parse().unwrap(),
            ["value".into()].into(),
            Payload::Values(vec![Value::Integer(value)]),
            RowKey(getrandom::u64().unwrap()),
            Timestamp::now(),
        );
    }

    /// How many rows of `point` the host has not acknowledged.
    pub fn unacknowledged(&self, point: &str) -> u64 {
        let spool = self.spool.lock().unwrap();
        let of_point = spool
            .backlogs()
            .filter(|(id, _)| id.point.to_string() == point);
        of_point.map(|(_, backlog)| backlog).sum()
    }

    fn session(&self, stream: &UnixStream) {
        stream
            .set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        let (mut reader, mut buffer) = (LineReader::new(), vec![0; 65536]);
        let mut ticked = Instant::now();
        let mut writer = stream;
        loop {
            match (&mut &*stream).read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => reader.push(&buffer[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            let mut lines = Vec::new();
            {
                let mut spool = self.spool.lock().unwrap();
                while let Some(message) = reader.next_message::<HostMessage>() {
                    spool.on_message(message.unwrap(), &mut || {
                        StreamId(u128::from(getrandom::u64().unwrap()))
                    });
                }
                if ticked.elapsed() > Duration::from_secs(1) {
                    spool.tick(Timestamp::now());
                    ticked = Instant::now();
                }
                while let Some(message) = spool.poll() {
                    lines.extend(encode(&message));
                }
            }
            if stream.set_nonblocking(false).is_err() || writer.write_all(&lines).is_err() {
                return;
            }
        }
    }
}

/// A domain of libvirt's test driver, in this process; gone at the end.
pub struct TestDomain {
    connection: virt::connect::Connect,
    pub name: String,
}

impl TestDomain {
    pub fn define(name: &str, metadata: &str) -> Self {
        let connection = virt::connect::Connect::open(Some("test:///default")).unwrap();
        let xml = format!(
            "<domain type='test'><name>{name}</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><metadata>{metadata}</metadata></domain>"
        );
        connection.define_domain_xml(&xml).unwrap();
        Self {
            connection,
            name: name.to_owned(),
        }
    }

    pub fn running(name: &str) -> Self {
        let domain = Self::define(name, "");
        domain.domain().create().unwrap();
        domain
    }

    pub fn domain(&self) -> virt::domain::Domain {
        self.connection.lookup_domain_by_name(&self.name).unwrap()
    }

    pub fn uuid(&self) -> String {
        self.domain().uuid_string().unwrap()
    }
}

impl Drop for TestDomain {
    fn drop(&mut self) {
        if let Ok(domain) = self.connection.lookup_domain_by_name(&self.name) {
            let _ = domain.destroy();
            let _ = domain.undefine();
        }
    }
}

/// A daemon in this process.
pub struct Daemon {
    pub listen: SocketAddr,
    pub dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Daemon {
    /// Starts it for these domains: name, descriptor in TOML, socket of the guest.
    pub fn start(broker: &str, vms: &[(&str, &str, &Path)], limits: Limits) -> Self {
        Self::start_polling(broker, vms, limits, None)
    }

    /// The same, with a daemon that polls.
    pub fn start_polling(
        broker: &str,
        vms: &[(&str, &str, &Path)],
        limits: Limits,
        poll_interval: Option<Duration>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            libvirt_uri: "test:///default".to_owned(),
            broker: Broker::anonymous(broker.parse().unwrap()),
            listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
            state: dir.path().join("state"),
            guests: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            limits,
            door: None,
            outbox_bytes: vmkpi_host::outbox::DEFAULT_MAX_BYTES,
            poll_interval,
            signer: None,
            lease_seconds: 60,
            context: None,
        };
        for (name, descriptor, socket) in vms {
            let path = dir.path().join(format!("{name}.toml"));
            std::fs::write(&path, descriptor).unwrap();
            config.descriptors.insert((*name).to_owned(), path);
            let url = format!("unix:{}", socket.display());
            config
                .guests
                .insert((*name).to_owned(), url.parse().unwrap());
        }
        Self::run(config, dir)
    }

    /// Starts it for domains that say in their metadata what is monitored: name, socket of the guest.
    pub fn of_metadata(broker: &str, vms: &[(&str, &Path)], limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let guest = |(name, socket): &(&str, &Path)| {
            let url = format!("unix:{}", socket.display());
            ((*name).to_owned(), url.parse().unwrap())
        };
        let config = Config {
            libvirt_uri: "test:///default".to_owned(),
            broker: Broker::anonymous(broker.parse().unwrap()),
            listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
            state: dir.path().join("state"),
            guests: vms.iter().map(guest).collect(),
            descriptors: BTreeMap::new(),
            limits,
            door: None,
            outbox_bytes: vmkpi_host::outbox::DEFAULT_MAX_BYTES,
            poll_interval: None,
            signer: None,
            lease_seconds: 60,
            context: None,
        };
        Self::run(config, dir)
    }

    fn run(config: Config, dir: tempfile::TempDir) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let listen = config.listen;
        let task = tokio::spawn(daemon::run(config, async {
            let _ = stopped.await;
        }));
        Self {
            listen,
            dir,
            task,
            stop: Some(stop),
        }
    }

    /// The page of metrics; empty while there is none.
    pub fn metrics(&self) -> String {
        get(self.listen, "/metrics")
    }

    /// The value of the one series that has all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let page = self.metrics();
        let line = page.lines().find(|line| {
            let named = line
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']));
            named && labels.iter().all(|label| line.contains(label))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A GET by hand: status line, headers and body in one text.
pub fn get(address: SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
