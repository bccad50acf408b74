//! A broker that does not let in everybody: TLS, client certificates, logins and ACLs of a real mosquitto,
//! and every way in which that goes wrong.

#[path = "secured/site.rs"]
mod site;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use vmkpi_tests::chain::{Broker, lines_of};
use vmkpi_tests::pki::{Ca, Pair};
use vmkpi_tests::process::{Process, program};
use vmkpi_tests::wait_for;

use site::{ACL, HERE, Host, Site, shows, trusts};

/// Runs `vmkpi watch` to its end: at the third sample, or after 30 s.
fn watch(url: &str, options: &[Vec<String>]) -> Result<Output> {
    Ok(Command::new(program("vmkpi")?)
        .args(["watch", "--format=json", "--count=3", "--seconds=30"])
        .arg(format!("--broker={url}"))
        .args(options.concat())
        .stdin(Stdio::null())
        .output()?)
}

#[test]
fn samples_arrive_over_tls_by_certificates_and_acl() -> Result<()> {
    let site = Site::new()?;
    let broker = site.broker_of_certificates(ACL)?;
    let mut host = Host::start(
        site.folder(),
        &broker.url(),
        &[trusts(&site.ca), shows(&site.host)],
    )?;
    // Certificate and key in one file.
    let both = [&site.watch.key, &site.watch.cert].map(std::fs::read_to_string);
    let both = both.into_iter().collect::<Result<String, _>>()?;
    let both = Pair {
        cert: site.secret("both.pem", &both)?,
        key: site.file("both.pem"),
    };
    let seen = watch(&broker.url(), &[trusts(&site.ca), shows(&both)])?;
    let words = String::from_utf8(seen.stderr)?;
    ensure!(seen.status.success(), "{words}{}", host.process.words());
    assert_eq!(String::from_utf8(seen.stdout)?.lines().count(), 3);
    assert_eq!(words, "", "nothing to say when all is well");
    ensure!(host.process.terminate()?.success());
    let words = host.process.words();
    assert!(
        !words.contains("WARN") && !words.contains("ERROR"),
        "{words}"
    );
    Ok(())
}

/// Both programs fail for `reason` and say `words`: the daemon once, and it goes on; `watch` as it ends.
fn is_said_with(
    site: &Site,
    url: &str,
    options: &[Vec<String>],
    (reason, words): (&str, &str),
) -> Result<()> {
    let said = Host::start(site.folder(), url, options)?.fails(reason)?;
    std::fs::remove_file(site.file("host.err"))?;
    let lines: Vec<_> = said.lines().filter(|l| l.contains("WARN")).collect();
    assert_eq!(lines.len(), 1, "once: {said}");
    let has_both = |text: &str| text.contains(words) && text.contains(url);
    assert!(has_both(lines[0]), "{words}: {said}");
    if reason != "unreachable" {
        let seen = watch(url, options)?;
        let said = String::from_utf8(seen.stderr)?;
        assert_eq!(seen.status.code(), Some(1), "{said}");
        assert!(has_both(&said), "{words}: {said}");
    }
    Ok(())
}

/// Each trouble: what is wrong, how it is counted, and what has to be said of it.
#[test]
fn what_is_wrong_with_certificates_is_said_with_what_to_do() -> Result<()> {
    let site = Site::new()?;
    let broker = site.broker_of_certificates(ACL)?;
    let other = Ca::new(site.folder(), "other")?;
    let stranger = other.client("stranger", "host-17")?;
    let old = site.ca.expired("old", "host-17", HERE)?;
    let url = broker.url();
    let by_name = url.replace("127.0.0.1", "localhost");
    let plain = url.replace("mqtts", "mqtt");
    let (ca, us) = (trusts(&site.ca), shows(&site.host));
    let wrong_ca = trusts(&other);
    for (url, options, reason, words) in [
        (
            &url,
            vec![wrong_ca, us.clone()],
            "server_certificate",
            "name the CA that signed it",
        ),
        (
            &url,
            vec![us.clone()],
            "server_certificate",
            "no CA that this system trusts",
        ),
        (
            &by_name,
            vec![ca.clone(), us],
            "server_certificate",
            "not for localhost",
        ),
        (
            &url,
            vec![ca.clone()],
            "client_certificate",
            "wants a client certificate",
        ),
        (
            &url,
            vec![ca.clone(), shows(&old)],
            "client_certificate",
            "has expired; renew it",
        ),
        (
            &url,
            vec![ca, shows(&stranger)],
            "client_certificate",
            "does not know its CA",
        ),
        (&plain, vec![], "unreachable", "mqtts://"),
    ] {
        is_said_with(&site, url, &options, (reason, words))?;
    }
    Ok(())
}

#[test]
fn a_broker_whose_certificate_ended_is_refused_and_its_new_one_taken() -> Result<()> {
    let site = Site::new()?;
    let (old, new) = (site.ca.expired("old", "broker", HERE)?, &site.server);
    let renew = |from: &Pair| -> Result<()> {
        std::fs::copy(&from.cert, site.file("now.crt"))?;
        std::fs::copy(&from.key, site.file("now.key"))?;
        Ok(())
    };
    renew(&old)?;
    let options = format!(
        "certfile {}\nkeyfile {}\nallow_anonymous true",
        site.file("now.crt").display(),
        site.file("now.key").display()
    );
    let mut broker = Broker::start_with(site.folder(), "mqtts", &options)?;
    let host = Host::start(site.folder(), &broker.url(), &[trusts(&site.ca)])?;
    let expired = "vmkpi_broker_errors_total{reason=\"server_certificate\"}";
    host.wait_for("the old one to be refused", expired, |n| n >= 1.0)?;
    wait_for(10, "that to be said", || {
        host.process
            .words()
            .contains("has expired; renew it there")
            .then_some(())
    })?;
    renew(new)?;
    broker.restart_after(std::time::Duration::ZERO)?;
    host.wait_until_connected()?;
    // Another one of the same CA.
    renew(&site.ca.server("another", HERE)?)?;
    broker.restart_after(std::time::Duration::ZERO)?;
    host.wait_for("a second connection", "vmkpi_broker_connects_total ", |n| {
        n >= 2.0
    })?;
    host.wait_until_connected()
}

#[test]
fn renewed_files_are_taken_and_broken_ones_leave_the_old_in_force() -> Result<()> {
    let site = Site::new()?;
    let mut broker = site.broker_of_certificates(ACL)?;
    let (cert, key) = (site.file("mine.crt"), site.file("mine.key"));
    let renew = |from: &Pair| -> Result<()> {
        std::fs::copy(&from.cert, &cert)?;
        std::fs::copy(&from.key, &key)?;
        Ok(())
    };
    renew(&site.host)?;
    let mine = Pair {
        cert: cert.clone(),
        key: key.clone(),
    };
    let host = Host::start(
        site.folder(),
        &broker.url(),
        &[trusts(&site.ca), shows(&mine)],
    )?;
    host.wait_until_connected()?;
    // Half a renewal: the key is not the certificate's.
    let next = site.ca.client("next", "host-17")?;
    std::fs::copy(&next.cert, &cert)?;
    broker.restart_after(std::time::Duration::ZERO)?;
    host.wait_for(
        "the old one to be used",
        "vmkpi_broker_connects_total ",
        |n| n >= 2.0,
    )?;
    let words = host.process.words();
    assert!(words.contains("it does not go with"), "{words}");
    assert!(words.contains("what was read before is used"), "{words}");
    let broken = host.number("vmkpi_broker_errors_total{reason=\"files\"}");
    assert!(broken >= Some(1.0), "{broken:?}");
    // The whole of it, by another name, which only a new reading can show.
    renew(&site.ca.client("renamed", "renamed")?)?;
    std::fs::write(
        site.file("acl"),
        ACL.replace("user host-17", "user renamed"),
    )?;
    broker.restart_after(std::time::Duration::ZERO)?;
    host.wait_for("a third connection", "vmkpi_broker_connects_total ", |n| {
        n >= 3.0
    })?;
    let seen = watch(&broker.url(), &[trusts(&site.ca), shows(&site.watch)])?;
    ensure!(seen.status.success(), "{}", host.process.words());
    Ok(())
}

#[test]
fn a_wrong_password_is_said_once_and_tried_until_it_is_right() -> Result<()> {
    let site = Site::new()?;
    let mut broker = site.broker_of_passwords("another")?;
    let login = site.secret("login.toml", "username = \"host\"\npassword = \"right\"\n")?;
    let password = site.secret("password", "wrong\n")?;
    let options = [
        trusts(&site.ca),
        vec![format!("--broker.credentials-file={}", login.display())],
    ];
    let seen = watch(
        &broker.url(),
        &[
            trusts(&site.ca),
            vec![
                "--broker.username=host".to_owned(),
                format!("--broker.password-file={}", password.display()),
            ],
        ],
    )?;
    let said = String::from_utf8(seen.stderr)?;
    assert_eq!(seen.status.code(), Some(1));
    assert!(said.contains("refuses the login"), "{said}");
    let host = Host::start(site.folder(), &broker.url(), &options)?;
    let refused = "vmkpi_broker_errors_total{reason=\"login\"}";
    host.wait_for("it to be tried again", refused, |n| n >= 3.0)?;
    site.set_password("right")?;
    broker.process().signal(Signal::HUP)?;
    host.wait_until_connected()?;
    let words = host.process.words();
    assert_eq!(words.matches("refuses the login").count(), 1, "{words}");
    assert!(
        !words.contains("right") && !words.contains("wrong"),
        "{words}"
    );
    Ok(())
}

#[test]
fn the_systems_trust_is_used_without_a_ca_file() -> Result<()> {
    let site = Site::new()?;
    let broker = site.broker_of_passwords("right")?;
    let login = site.secret("login.toml", "username = \"host\"\npassword = \"right\"\n")?;
    let mut watch = Command::new(program("vmkpi")?)
        .args(["watch", "--format=json", "--seconds=1"])
        .arg(format!("--broker={}", broker.url()))
        .arg(format!("--broker.credentials-file={}", login.display()))
        .env("SSL_CERT_FILE", site.ca.cert())
        .spawn()?;
    broker.wait_for_watcher()?;
    ensure!(watch.wait()?.success());
    Ok(())
}

/// Not our own watch: it shows nothing that is older than the first message it saw.
fn subscribe(site: &Site, broker: &Broker) -> Result<Process> {
    let (port, ca) = (broker.port().to_string(), site.ca.cert());
    let (cert, key) = (site.watch.cert.as_os_str(), site.watch.key.as_os_str());
    let mut arguments: Vec<&OsStr> = ["-V", "5", "-h", "127.0.0.1", "-p", &port, "-q", "1"]
        .map(OsStr::new)
        .to_vec();
    arguments.extend(["-t", "vmkpi/v1/acme/#", "-i", "vmkpi-watch-sub"].map(OsStr::new));
    arguments.extend([OsStr::new("--cafile"), ca.as_os_str()]);
    arguments.extend([OsStr::new("--cert"), cert, OsStr::new("--key"), key]);
    let sub = Path::new("/usr/bin/mosquitto_sub");
    Process::start(site.folder(), "sub", sub, arguments)
}

#[test]
fn what_an_acl_denies_is_kept_said_once_and_delivered_when_it_may_be() -> Result<()> {
    let site = Site::new()?;
    let denying = ACL.replace("topic write", "topic read");
    let mut broker = site.broker_of_certificates(&denying)?;
    let host = Host::start(
        site.folder(),
        &broker.url(),
        &[trusts(&site.ca), shows(&site.host)],
    )?;
    host.wait_for("denials", "vmkpi_broker_messages_deferred_total ", |n| {
        n >= 3.0
    })?;
    let words = host.process.words();
    // Once for a topic: of data, and of the lease.
    for topic in [
        "topic=vmkpi/v1/acme/data/",
        "topic=vmkpi/v1/acme/directory/",
    ] {
        let denied = |l: &&str| l.contains("refuses messages on this topic") && l.contains(topic);
        assert_eq!(words.lines().filter(denied).count(), 1, "{topic}: {words}");
    }
    host.wait_for("them to wait", "vmkpi_messages_in_flight{", |n| n >= 3.0)?;
    let oldest = "vmkpi_messages_oldest_unacknowledged_timestamp_seconds{";
    let age = host.number(oldest);
    host.wait_for("more of them", "vmkpi_messages_in_flight{", |n| n >= 6.0)?;
    assert!(age.is_some() && host.number(oldest) == age, "{age:?}");
    let subscriber = subscribe(&site, &broker)?;
    broker.wait_for_watcher()?;
    std::fs::write(site.file("acl"), ACL)?;
    broker.process().signal(Signal::HUP)?;
    wait_for(40, "what was denied first", || {
        let lines = lines_of(&subscriber.out).ok()?;
        lines.iter().any(|l| l["after"] == 0).then_some(())
    })
    .with_context(|| host.process.words())?;
    wait_for(20, "that it is said", || {
        let words = host.process.words();
        words
            .contains("takes messages on this topic again")
            .then_some(())
    })?;
    host.wait_for("nothing to be left", "vmkpi_messages_in_flight{", |n| {
        n <= 1.0
    })
}

#[test]
fn files_and_options_that_are_wrong_are_said_at_the_start() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new()?;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&site.watch.key, open)?;
    let url = "mqtts://broker.example";
    let refused = |options: &[Vec<String>]| -> Result<String> {
        let seen = watch(url, options)?;
        assert_eq!(seen.status.code(), Some(2));
        let said = String::from_utf8(seen.stderr)?;
        let host = Host::start(site.folder(), url, options)?;
        let mut process = host.process;
        assert_eq!(process.wait(10)?.code(), Some(2));
        Ok(said + &process.words())
    };
    for (options, words) in [
        (vec![shows(&site.watch)], "chmod"),
        (
            vec![trusts(&site.ca), shows(&site.host)[..1].to_vec()],
            "--broker.key-file",
        ),
        (
            vec![vec!["--broker.ca-file=/nonexistent".to_owned()]],
            "/nonexistent",
        ),
    ] {
        let said = refused(&options)?;
        assert_eq!(said.matches(words).count(), 2, "by both programs: {said}");
        std::fs::remove_file(site.file("host.err"))?;
    }
    Ok(())
}
