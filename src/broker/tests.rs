use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn url(text: &str) -> BrokerUrl {
    text.parse().unwrap()
}

#[test]
fn urls_are_read_and_written() {
    for (text, shown) in [
        ("mqtt://127.0.0.1:1884", "mqtt://127.0.0.1:1884"),
        ("mqtt://broker.example", "mqtt://broker.example:1883"),
        ("mqtts://broker.example/", "mqtts://broker.example:8883"),
        ("mqtts://[::1]", "mqtts://[::1]:8883"),
        ("mqtt://[2001:db8::7]:5/", "mqtt://[2001:db8::7]:5"),
    ] {
        let read = url(text);
        assert_eq!(read.to_string(), shown);
        assert_eq!(url(shown), read);
    }
}

#[test]
fn other_urls_are_refused_with_what_would_be_right() {
    for (text, word) in [
        ("", "mqtt://HOST"),
        ("localhost:1883", "mqtt://HOST"),
        ("http://x", "mqtt://"),
        ("ssl://x", "mqtts://"),
        ("mqtt://", "mqtt://HOST"),
        ("mqtts://", "mqtts://HOST"),
        ("mqtt://h:0", "mqtt://HOST"),
        ("mqtt://h:x", "mqtt://HOST"),
        ("mqtt://h:70000", "mqtt://HOST"),
        ("mqtt://h/path", "mqtt://HOST"),
        ("mqtt://[::1", "mqtt://HOST"),
        ("mqtt://[::1]x", "mqtt://HOST"),
        ("mqtt://[h]", "mqtt://HOST"),
        ("mqtt://a\u{1b}[2J", "mqtt://HOST"),
    ] {
        let error = text.parse::<BrokerUrl>().unwrap_err().to_string();
        assert!(error.contains(word), "{text}: {error}");
        assert!(!error.contains('\u{1b}'));
    }
    let login = "mqtt://user:hunter2@h".parse::<BrokerUrl>().unwrap_err();
    assert_eq!(login, UrlError::Login);
    assert!(!login.to_string().contains("hunter2"));
}

fn file(path: &str) -> Option<PathBuf> {
    Some(PathBuf::from(path))
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let (tcp, tls) = (url("mqtt://h"), url("mqtts://h"));
    let ca = Access {
        ca_file: file("ca"),
        ..Access::default()
    };
    let cert = Access {
        cert_file: file("c"),
        ..Access::default()
    };
    let name = Access {
        username: Some("u".into()),
        ..Access::default()
    };
    let two = Access {
        credentials_file: file("x"),
        username: Some("u".into()),
        password_file: file("p"),
        ..Access::default()
    };
    for (url, access, word) in [
        (&tcp, &ca, "mqtts://"),
        (&tls, &cert, "--broker.key-file"),
        (&tls, &name, "--broker.password-file"),
        (&tls, &two, "leave one out"),
    ] {
        let error = Broker::new(url.clone(), access.clone()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(Broker::new(tls, ca).is_ok());
}

#[test]
fn a_password_in_the_clear_is_warned_of_unless_it_stays_here() {
    let login = Access {
        credentials_file: file("x"),
        ..Access::default()
    };
    for (text, warns) in [
        ("mqtt://broker.example", true),
        ("mqtt://192.0.2.1", true),
        ("mqtts://broker.example", false),
        ("mqtt://localhost", false),
        ("mqtt://127.0.0.9", false),
        ("mqtt://[::1]", false),
    ] {
        let broker = Broker::new(url(text), login.clone()).unwrap();
        assert_eq!(broker.warning().is_some(), warns, "{text}");
        assert!(Broker::anonymous(url(text)).warning().is_none());
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn login_of(path: &Path) -> Result<Option<Login>, FileError> {
    files::login(&Access {
        credentials_file: Some(path.to_owned()),
        ..Access::default()
    })
}

#[test]
fn a_login_that_everybody_may_read_is_refused() {
    let folder = Folder::new();
    let text = "username = \"u\"\npassword = \"p\"\n";
    let path = folder.write("login", text, 0o644);
    let error = login_of(&path).unwrap_err().to_string();
    assert!(
        error.contains("chmod") && error.contains("login"),
        "{error}"
    );
    for mode in [0o640, 0o600, 0o400] {
        let read = login_of(&folder.write(&format!("{mode}"), text, mode));
        let login = read.unwrap().unwrap();
        assert_eq!(format!("{login:?}"), "Login(\"u\", ...)");
        assert_eq!(login.password, "p");
    }
}

#[test]
fn files_that_are_no_login_are_refused() {
    let folder = Folder::new();
    for (at, text) in [
        "user = \"u\"",
        "",
        "username = \"u\"\npassword = \"\"",
        "\0",
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.write(&at.to_string(), text, 0o600);
        let error = login_of(&path).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }
    let path = folder.write("large", vec![b'a'; 5 << 20], 0o600);
    assert!(login_of(&path).unwrap_err().to_string().contains("larger"));
    let path = folder.write("bytes", [0xff, 0xfe], 0o600);
    assert!(login_of(&path).unwrap_err().to_string().contains("no text"));
    assert!(login_of(folder.0.path()).is_err(), "a folder");
    // Opening it would wait for ever.
    let pipe = folder.0.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert!(login_of(&pipe).unwrap_err().to_string().contains("plain"));
}

#[test]
fn a_password_file_holds_the_password_alone() {
    let folder = Folder::new();
    let read = |text: &str| {
        files::login(&Access {
            username: Some("u".into()),
            password_file: Some(folder.write("password", text, 0o600)),
            ..Access::default()
        })
    };
    for (text, password) in [("p", "p"), ("p \n", "p "), ("p\r\n", "p")] {
        assert_eq!(read(text).unwrap().unwrap().password, password);
    }
    for bad in ["", "\n", "a\nb\n"] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn certificates_and_keys_that_are_none_are_refused_by_name() {
    let folder = Folder::new();
    let junk = folder.write("junk", "hello\n", 0o600);
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let broken = folder.write("broken", broken, 0o600);
    let writable = folder.write("writable", "", 0o666);
    for (path, word) in [
        (&junk, "no certificate"),
        (&broken, "no PEM"),
        (&writable, "chmod o-w"),
        (&folder.0.path().join("absent"), "No such file"),
    ] {
        let access = Access {
            ca_file: Some(path.clone()),
            ..Access::default()
        };
        let error = Broker::new(url("mqtts://h"), access).unwrap().read();
        let error = error.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }
}

#[test]
fn a_renewal_that_went_wrong_leaves_what_was_there_and_is_news_once() {
    let folder = Folder::new();
    let write = |text: &str| folder.write("password", text, 0o600);
    let access = Access {
        username: Some("u".into()),
        password_file: Some(write("one")),
        ..Access::default()
    };
    let mut keeper = Keeper::new(Broker::new(url("mqtt://h"), access).unwrap());
    let password = |renewal: &Renewal| renewal.entry.login.clone().unwrap().password;
    assert_eq!(password(&keeper.renew().unwrap()), "one");
    write("");
    let news: Vec<_> = (0..2)
        .map(|_| {
            let renewal = keeper.renew().unwrap();
            assert_eq!(password(&renewal), "one");
            assert!(renewal.broken.is_some());
            renewal.news
        })
        .collect();
    assert_eq!(news, [true, false]);
    write("two");
    let renewal = keeper.renew().unwrap();
    assert_eq!(
        (password(&renewal), renewal.broken.is_none()),
        ("two".into(), true)
    );
}

#[test]
fn kinds_are_in_the_order_of_their_counters() {
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, at);
    }
}
