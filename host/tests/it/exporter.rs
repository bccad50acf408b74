//! The exporter, and those who scrape it badly.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use vmkpi_host::exporter;
use vmkpi_host::snapshot::Snapshot;

async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(exporter::serve(listener, Box::new(Snapshot::default)));
    address
}

fn ask(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = ask(address, &format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n"));
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_many_scrapers_keep_nobody_from_scraping() {
    let address = serve().await;
    let scraped = tokio::task::spawn_blocking(move || {
        // Some ask for half a page, some never finish asking, some never read.
        let bad = ["", "GET /met", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"];
        let mut held = Vec::new();
        let mut slowest = Duration::ZERO;
        for request in bad.iter().cycle().take(300) {
            held.push(ask(address, request));
            if held.len() % 50 == 0 {
                let begin = Instant::now();
                let page = get(address, "/metrics");
                assert!(page.contains("\nlibvirt_up 0\n"), "{page}");
                slowest = slowest.max(begin.elapsed());
            }
        }
        // The page is made anew a little later, and tells.
        std::thread::sleep(Duration::from_millis(300));
        (slowest, get(address, "/metrics"))
    });
    let (slowest, page) = scraped.await.unwrap();
    // What is bad is closed after 10 s at the earliest: nobody waited for that.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let evicted = page
        .lines()
        .find_map(|l| l.strip_prefix("vmkpi_exporter_connections_evicted_total "));
    let evicted: u64 = evicted.unwrap().parse().unwrap();
    assert!((200..=300).contains(&evicted), "{evicted} evicted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said() {
    let address = serve().await;
    let answers = tokio::task::spawn_blocking(move || {
        let paths = ["/", "/-/healthy", "/nothing"];
        paths.map(|path| get(address, path))
    });
    let [index, healthy, nothing] = answers.await.unwrap();
    assert!(index.contains(" 200 ") && index.contains("/metrics"));
    assert!(healthy.contains(" 200 "));
    assert!(nothing.contains(" 404 "), "{nothing}");
}

/// Head and body of the answer to a request that ends its connection.
async fn answer(address: SocketAddr, request: &'static str) -> (String, String) {
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = ask(address, request);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_no_body_and_other_methods_are_told_which_are_allowed() {
    let address = serve().await;
    let (head, body) = answer(
        address,
        "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(head.contains(" 200 ") && body.is_empty(), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"));
    for request in [
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        let (head, _) = answer(address, request).await;
        assert!(
            head.contains(" 405 ") && head.contains("allow: get, head"),
            "{head}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_that_asks_for_compression_or_another_format_gets_the_text() {
    let address = serve().await;
    let (head, body) = answer(
        address,
        "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\
         Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n",
    )
    .await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        !head.contains("content-encoding") && body.contains("\nlibvirt_up 0\n"),
        "{head}"
    );
}
