//! Precedence, everything that is refused, and that file, documentation and flags say the same.

use std::io::Write as _;
use std::path::Path;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn sources(file: &tempfile::NamedTempFile) -> Sources {
    Sources {
        file: Some(file.path().into()),
        ..Sources::default()
    }
}

fn load(text: &str) -> Settings {
    CATALOGUE.load(&sources(&file(text))).unwrap().settings
}

/// What is wrong with a file, a line each: `LINE: KEY: MESSAGE`.
fn problems(text: &str) -> Vec<String> {
    let file = file(text);
    let prefix = format!("{}:", file.path().display());
    let found = CATALOGUE.load(&sources(&file)).unwrap_err().0;
    let said = found.iter().map(|p| p.to_string().replace(&prefix, ""));
    said.collect()
}

const EVERYTHING: &str = "state = '/s'\nlog_level = 'debug'\nlibvirt.uri = 'test:///default'\n\
    [broker]\nurl = 'mqtt://b:1'\ncredentials_file = '/c'\nca_file = '/a'\ncert_file = '/b'\nkey_file = '/k'\n\
    username = 'u'\npassword_file = '/p'\n[directory]\nlease = 10\n[web]\nlisten_address = '[::1]:1'\n\
    [sign]\nkey_file = '/s'\n[outbox]\nmax_bytes = 2_000_000\n[link]\npoll_interval = 7\nlisten_address = '[::]:9879'\n\
    tls.cert_file = '/lc'\ntls.key_file = '/lk'\ntls.ca_file = '/la'\n\
    [context]\ndirectory = '/c'\nimages = '/i'\nswap = 'device'\nforce = true\n\
    [guest]\na = 'unix:/a'\n\"b.c\" = 'vsock:7:9001'\n[descriptor]\na = '/a.toml'\n";

#[test]
fn every_key_is_read_from_the_file_and_what_is_shown_is_read_back() {
    let (settings, defaults) = (load(EVERYTHING), Settings::default());
    for setting in CATALOGUE.settings {
        let (is, was) = (setting.get(&settings), setting.get(&defaults));
        assert_ne!(is, was, "{}", setting.key);
    }
    assert_eq!(settings.guests["b.c"].to_string(), "vsock:7:9001");
    assert_eq!(load(&CATALOGUE.example(&settings)), settings);
}

#[test]
fn what_is_stronger_replaces_values_and_of_a_map_the_names_it_has() {
    let file = file(EVERYTHING);
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = CATALOGUE.load(&Sources {
        environment: vec![
            set("VMKPI_HOST_BROKER", "mqtt://environment"),
            set("VMKPI_HOST_WEB_LISTEN_ADDRESS", "127.0.0.1:2"),
            set("VMKPI_HOST_GUEST", "a=unix:/environment,d=unix:/d"),
            set("VMKPI_HOST_DESCRIPTOR", ""),
            set("RUST_LOG", "info"),
        ],
        flags: vec![
            ("broker", "mqtt://flag".into()),
            ("guest", "d=unix:/flag".into()),
            ("guest", "e=unix:/e".into()),
        ],
        ..sources(&file)
    });
    let settings = settings.unwrap().settings;
    assert_eq!(settings.broker.unwrap().host, "flag");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:2");
    assert_eq!(settings.log_level, "info");
    let guests = settings.guests.iter().map(|(d, url)| format!("{d}={url}"));
    assert_eq!(
        guests.collect::<Vec<_>>(),
        [
            "a=unix:/environment",
            "b.c=vsock:7:9001",
            "d=unix:/flag",
            "e=unix:/e"
        ]
    );
    assert_eq!(settings.descriptors["a"], Path::new("/a.toml"));
}

#[test]
fn mistakes_have_their_line_and_the_key_that_was_meant() {
    assert_eq!(
        problems(
            "broker = 'mqtt://x'\n[web]\nlisten_adress = '127.0.0.1:1'\nport = 3\n[guests]\na = 'unix:/a'\n"
        ),
        [
            "1: broker: it is a section: write [broker]",
            "3: web.listen_adress: unknown key; did you mean web.listen_address?",
            "4: web.port: unknown key; `vmkpi-host run --print-config` shows all there are",
            "5: guests: unknown key; did you mean guest?",
        ]
    );
    assert_eq!(
        problems("guest = 'unix:/a'\n[descriptor]\na.b = '/d'\n\"c=d\" = '/d'\ne = 5\nf = ''\n"),
        [
            "1: guest: it is a section: write [guest]",
            "3: descriptor.a: a name with dots stands in quotes",
            "4: descriptor.c=d: no name here has a \"=\": write the UUID",
            "5: descriptor.e: it must be a string",
            "6: descriptor.f: \"f=\": write DOMAIN=VALUE",
        ]
    );
}

#[test]
fn variables_and_flags_are_refused_by_their_names() {
    let file = file("");
    let said = CATALOGUE.load(&Sources {
        environment: vec![
            ("VMKPI_HOST_BROKR".into(), "mqtt://x".into()),
            ("VMKPI_HOST_GUEST".into(), "a=unix:/a,b,a=unix:/b".into()),
        ],
        flags: vec![("outbox.max-bytes", "5".into())],
        ..sources(&file)
    });
    assert_eq!(
        said.unwrap_err().to_string(),
        "VMKPI_HOST_BROKR: unknown variable; did you mean VMKPI_HOST_BROKER?\n\
         VMKPI_HOST_GUEST: \"b\": write DOMAIN=URL\n\
         VMKPI_HOST_GUEST: \"a\" is named twice\n\
         --outbox.max-bytes: 5 is less than 1048576"
    );
}

#[test]
fn the_check_finds_what_is_wrong_with_files_and_directories_and_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
    write("good.toml", "vm = 'a'\nprimary_site = 's'\n");
    write(
        "same.toml",
        "vm = 'a'\nprimary_site = 's'\n[[monitor]]\npoint = 'infra/cpu'\n",
    );
    write("bad.toml", "vm = 'b'\nsevrice = 'x'\n");
    let mut settings = Settings {
        state: path("good.toml"),
        broker: Some("mqtts://localhost".parse().unwrap()),
        ..Settings::default()
    };
    settings.access.ca_file = Some(path("ca"));
    settings.access.credentials_file = Some(path("missing"));
    settings.access.cert_file = Some(path("cert"));
    for (domain, name) in [
        ("one", "good.toml"),
        ("one by uuid", "good.toml"),
        ("two", "same.toml"),
        ("three", "bad.toml"),
        ("four", "bad.toml"),
        ("five", "none.toml"),
    ] {
        settings.descriptors.insert(domain.into(), path(name));
    }
    let found = check(&settings, Problems::default()).unwrap_err();
    let prefix = format!("{}/", dir.path().display());
    let said = found.to_string().replace(&prefix, "");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 8, "{said}");
    for (line, expected) in lines.iter().zip([
        "[broker]: CA ca: No such file",
        "[broker]: broker credentials missing: No such file",
        "[broker]: --broker.cert-file needs --broker.key-file",
        "none.toml: descriptor.five: No such file",
        "bad.toml: descriptor.four: primary_site: missing",
        "bad.toml: descriptor.four: line 2: sevrice: unknown key",
        "same.toml: descriptor.two: VM \"a\" of site \"s\" is domain one already",
        "state good.toml: it is no directory",
    ]) {
        assert!(line.starts_with(expected), "{expected}: {said}");
    }
    let found = check(&Settings::default(), Problems::default()).unwrap_err();
    let said = found.to_string();
    assert!(
        said.starts_with("broker.url: missing; give url in [broker]"),
        "{said}"
    );
    let mut refused = Problems::default();
    refused.add("--broker", "", "no URL");
    let found = check(&Settings::default(), refused).unwrap_err();
    assert_eq!(found.0.len(), 1, "what was refused is not missing: {found}");
    let unread = CATALOGUE.read(&sources(&file("[broker")));
    let found = check(&unread.0.settings, unread.1).unwrap_err();
    assert_eq!(
        found.0.len(),
        1,
        "who knows what the file would say: {found}"
    );
}

#[test]
fn a_state_directory_that_could_be_made_is_not_made_by_a_check() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/b");
    let settings = Settings {
        state: state.clone(),
        broker: Some("mqtt://localhost".parse().unwrap()),
        ..Settings::default()
    };
    check(&settings, Problems::default()).unwrap();
    assert!(!state.exists() && !dir.path().join("a").exists());
}

#[test]
fn the_example_file_is_what_the_program_shows_and_holds_the_defaults() {
    let shipped = include_str!("../../../packaging/host.toml");
    let defaults = Settings::default();
    assert_eq!(
        shipped,
        CATALOGUE.example(&defaults),
        "write it anew: vmkpi-host run --config /dev/null --print-config > packaging/host.toml"
    );
    assert_eq!(load(shipped), defaults);
    // What is commented out is right, too.
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = ") && !rest.contains('`') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let all: String = shipped.lines().map(uncomment).collect();
    let settings = load(&all);
    assert!(settings.broker.is_some() && settings.poll_interval.is_some());
    assert_eq!((settings.guests.len(), settings.descriptors.len()), (1, 1));
}

#[test]
fn every_flag_has_a_key_and_every_setting_a_flag() {
    let command = crate::cli::command();
    let run = command.find_subcommand("run").unwrap();
    let own = ["help", "check", "print-config", "config"];
    let flags: Vec<_> = run
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    let known: Vec<_> = CATALOGUE.settings.iter().map(|s| s.flag).collect();
    for flag in &flags {
        assert!(known.contains(flag) || own.contains(flag), "--{flag}");
    }
    assert!(known.iter().all(|flag| flags.contains(flag)));
}
