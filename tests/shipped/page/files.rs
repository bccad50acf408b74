//! The page's files: over HTTP, and their functions that touch no page, by node.

use std::process::Command;

use super::*;

/// The status and headers, and the body.
fn ask(address: SocketAddr, method: &str, path: &str, more: &str) -> Result<(String, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

#[test]
fn files_come_with_their_types_and_a_policy_and_nothing_else_is_there() -> Result<()> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let key = Key::make(scratch.path(), "collect.key")?;
    let listen = free_address()?;
    let option = format!("--listen={listen}");
    let _collect = Collector::start(scratch.path(), &broker, scratch.path(), &key, &[&option])?;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.mjs", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let (head, body) = ask(listen, "GET", path, "")?;
        ensure!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        ensure!(
            head.contains(&format!("content-type: {kind}\r\n")),
            "{head}"
        );
        ensure!(
            head.contains("content-security-policy: default-src 'none'; script-src 'self'; "),
            "{head}"
        );
        ensure!(head.contains("x-content-type-options: nosniff"), "{head}");
        ensure!(body.len() > 100, "{body}");
        let length = format!("content-length: {}", body.len());
        let (head, body) = ask(listen, "HEAD", path, "")?;
        ensure!(head.contains(&length) && body.is_empty(), "{head}\n{body}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        let known = format!("If-None-Match: {}\r\n", tag.context("an ETag")?);
        let (head, body) = ask(listen, "GET", path, &known)?;
        ensure!(
            head.starts_with("http/1.1 304 ") && body.is_empty(),
            "{head}\n{body}"
        );
    }
    for path in [
        "/page",
        "/index.html",
        "/page/page.mjs",
        "/../Cargo.toml",
        "/api/v1/none",
    ] {
        let (head, _) = ask(listen, "GET", path, "")?;
        ensure!(head.starts_with("http/1.1 404 "), "{path}: {head}");
    }
    let (head, _) = ask(listen, "POST", "/", "")?;
    ensure!(head.starts_with("http/1.1 405 "), "{head}");
    let index = http_get(listen, "/api/v1/")?;
    ensure!(index.contains("/api/v1/buckets?site, vm, point"), "{index}");
    Ok(())
}

#[test]
fn the_pages_pure_functions_do_what_they_say() -> Result<()> {
    let output = Command::new("node")
        .arg("--test")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("shipped/page/pure.test.mjs"))
        .env("TZ", "UTC")
        .output()
        .context("node")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    ensure!(
        said.contains("# pass ") && !said.contains("# pass 0"),
        "{said}"
    );
    Ok(())
}
