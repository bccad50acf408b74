//! Precedence, and everything that is refused.

use std::io::Write as _;
use std::time::Duration;

use std::path::Path;

use super::*;
use crate::config::AllowOther;

fn load(sources: &Sources) -> Result<Loaded, Problems> {
    CATALOGUE.load(sources)
}

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

/// What is wrong with a file, a line each: `LINE: KEY: MESSAGE`.
fn problems(text: &str) -> Vec<String> {
    let file = file(text);
    let prefix = format!("{}:", file.path().display());
    let found = load(&sources(&file)).unwrap_err();
    found
        .0
        .iter()
        .map(|p| p.to_string().replace(&prefix, ""))
        .collect()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = file(
        "mount = '/file'\nstate = '/file'\nlog_level = 'error'\n[limits]\ncolumns = 1_0\nfiles = 20\n",
    );
    let mut sources = sources(&file);
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    sources.environment = vec![
        set("VMKPI_GUEST_MAX_COLUMNS", "11"),
        set("VMKPI_GUEST_STATE", "/environment"),
        set("VMKPI_GUEST_MOUNT", ""),
        set("RUST_LOG", "info"),
        set("HOME", "/root"),
    ];
    sources.flags = vec![("max-columns", "12".into())];
    let settings = load(&sources).unwrap().settings;
    assert_eq!(
        settings.mount,
        Path::new("/file"),
        "an empty variable is none"
    );
    assert_eq!(settings.state, Path::new("/environment"));
    assert_eq!((settings.limits.columns, settings.limits.files), (12, 20));
    assert_eq!(settings.log_level, "info");
}

#[test]
fn every_key_is_read_from_the_file() {
    let file = file(
        "mount = '/m'\nstate = '/s'\nlink = 'unix:/l'\nallow_other = 'owner'\nlog_level = 'info'\nvm = 'v'\n\
         primary_key_file = '/k'\n[limits]\nstore_bytes = 1\ncolumns = 2\nfiles = 3\ndatabase_bytes = 65_536\nlog_bytes = 1_048_576\n\
         [retention]\nrows = 5\nbytes = 6\nage = '8d'\ndrop_unacknowledged = true\n\
         [access]\nowner = 'web'\ngroup = 33\nfile_mode = 0o640\ndirectory_mode = '0750'\n\
         [link_tls]\ncert_file = '/c'\nkey_file = '/k'\nca_file = '/a'\n\
         [protection]\nlegislations = 'SE,EU'\npoints = 'encrypted/*,unencrypted/a'\n\
         [context]\nmount = '/c'\nclasses = 'site,service'\nhooks = '/h'\nhook_timeout = '1s'\nlinger = '1s'\npoll_interval = '1s'\n\
         [context.directories]\nservice = '/d'\n\
         [[poll]]\npoint = 'unencrypted/q'\ncommand = ['/bin/q', '-a b']\ninterval = '30s'\nuser = 'nobody'\n",
    );
    let settings = load(&sources(&file)).unwrap().settings;
    let defaults = Settings::default();
    for setting in CATALOGUE.settings {
        assert_ne!(
            setting.get(&settings),
            setting.get(&defaults),
            "{}",
            setting.key
        );
    }
    assert_eq!(settings.allow_other, AllowOther::Owner);
    assert_eq!(settings.limits.retain_age, Duration::from_secs(8 * 86_400));
    assert_eq!(
        (settings.file_mode, settings.directory_mode),
        (0o640, 0o750)
    );
    assert_eq!(settings.group.as_deref(), Some("33"));
    let poll = &settings.polls[0];
    assert_eq!(poll.command, ["/bin/q", "-a b"]);
    assert_eq!((poll.interval.as_secs(), poll.timeout.as_secs()), (30, 10));
    // What is shown is read back as the same.
    let shown = self::file(&CATALOGUE.example(&settings));
    assert_eq!(load(&sources(&shown)).unwrap().settings, settings);
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_one_that_was_meant() {
    let said = problems(
        "\nmout = 1\n[limits]\nstore_byte = 1\n[acess]\nowner = 'x'\n[[poll]]\npoint = 'unencrypted/q'\ncommand = ['x']\ninterval = '1s'\ntimout = '1s'\n",
    );
    assert_eq!(
        said,
        [
            "2: mout: unknown key; did you mean mount?",
            "4: limits.store_byte: unknown key; did you mean limits.store_bytes?",
            "5: acess: unknown key; `vmkpi-guest run --print-config` shows all there are",
            "11: poll[1].timout: unknown key; did you mean timeout?",
        ]
    );
}

#[test]
fn wrong_types_and_impossible_values_are_refused_all_at_once() {
    for (text, expected) in [
        ("mount = 1", "1: mount: it must be a string"),
        ("mount = ''", "1: mount: an empty path"),
        ("link = 'http://x'", "1: link: \"http://x\" is no link URL"),
        (
            "allow_other = 'some'",
            "1: allow_other: \"some\" is none of auto, all, owner",
        ),
        (
            "log_level = 'x=y=z'",
            "1: log_level: \"x=y=z\" is no log filter",
        ),
        (
            "vm = 'a/b'",
            "1: vm: \"a/b\" has a control character or a slash",
        ),
        ("limits = 3", "1: limits: it is a section: write [limits]"),
        (
            "poll = 3",
            "1: poll: it is a list of tables: write [[poll]]",
        ),
        (
            "limits.columns = -1",
            "1: limits.columns: it must be a whole number",
        ),
        (
            "limits.columns = 1901",
            "1: limits.columns: 1901 is more than 1900",
        ),
        (
            "limits.store_bytes = 0",
            "1: limits.store_bytes: 0 is less than 1",
        ),
        (
            "access.file_mode = 660",
            "1: access.file_mode: it must be octal digits in a string",
        ),
        (
            "access.file_mode = '0999'",
            "1: access.file_mode: \"0999\" is no mode",
        ),
        (
            "retention.drop_unacknowledged = 1",
            "1: retention.drop_unacknowledged: it must be true or false",
        ),
        (
            "retention.age = '1 year'",
            "1: retention.age: \"1 year\" is no duration",
        ),
        ("mount = '/a'\nmount = '/b'", "2: duplicate key"),
        ("mount =", "1: "),
    ] {
        let said = problems(text);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(expected), "{text}: {said:?}");
    }
    assert_eq!(
        problems("mount = 1\nstate = 2\n[limits]\nfiles = 0").len(),
        3
    );
}

#[test]
fn a_poll_says_what_it_lacks_and_what_cannot_be() {
    let poll = |rest: &str| problems(&format!("[[poll]]\n{rest}"));
    let whole = "point = 'unencrypted/q'\ncommand = ['x']\ninterval = '1s'\n";
    for (change, expected) in [
        (
            ("point = 'unencrypted/q'\n", ""),
            "1: poll[1].point: missing",
        ),
        (
            ("unencrypted/q", "infra/cpu"),
            "2: poll[1].point: infra/cpu is the hypervisor's",
        ),
        (
            ("unencrypted/q", "q"),
            "2: poll[1].point: \"q\" is no data point",
        ),
        (
            ("['x']", "'x -a'"),
            "3: poll[1].command: it must be a list of strings",
        ),
        (
            ("['x']", "[]"),
            "3: poll[1].command: it must be a list of strings",
        ),
        (
            ("'1s'", "'10ms'"),
            "4: poll[1].interval: \"10ms\" is not between 100ms and 1d",
        ),
        (("'1s'", "5"), "4: poll[1].interval: it must be a string"),
    ] {
        let said = poll(&whole.replace(change.0, change.1));
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }
    let twice = problems(&format!("[[poll]]\n{whole}[[poll]]\n{whole}"));
    assert!(twice[0].contains("another command's point"), "{twice:?}");
}

#[test]
fn an_unknown_variable_is_refused_and_a_wrong_value_names_its_source() {
    let environment = vec![("VMKPI_GUEST_MOUNTS".to_owned(), "/x".to_owned())];
    let flags = vec![("max-files", "0".to_owned())];
    let file = file("");
    let said = load(&Sources {
        environment,
        flags,
        ..sources(&file)
    })
    .unwrap_err();
    let expected = "VMKPI_GUEST_MOUNTS: unknown variable; did you mean VMKPI_GUEST_MOUNT?\n--max-files: 0 is less than 1";
    assert_eq!(said.to_string(), expected);
}

#[test]
fn a_named_file_has_to_be_there_and_nobody_else_may_write_it() {
    let missing = Sources {
        file: Some("/nonexistent/guest.toml".into()),
        ..Sources::default()
    };
    assert!(
        load(&missing)
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    let by_variable = Sources {
        environment: vec![(
            "VMKPI_GUEST_CONFIG".into(),
            "/nonexistent/guest.toml".into(),
        )],
        ..Sources::default()
    };
    assert!(load(&by_variable).is_err());
    let file = file("");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let said = load(&sources(&file)).unwrap_err().to_string();
    assert!(said.contains("chmod go-w"), "{said}");
}

#[test]
fn the_example_file_is_what_the_program_shows_and_holds_the_defaults() {
    let shipped = include_str!("../../../packaging/guest.toml");
    let defaults = Settings::default();
    assert_eq!(
        shipped,
        CATALOGUE.example(&defaults),
        "write it anew: vmkpi-guest run --print-config > packaging/guest.toml"
    );
    let read = load(&sources(&file(shipped))).unwrap().settings;
    assert_eq!(read, defaults);
    // What is commented out is right, too.
    let mut all: String = shipped
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with("[[") || (rest.contains(" = ") && !rest.contains('`')) =>
            {
                rest
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    all = all.replace("/etc/vmkpi/primary-key.pem", "/k");
    let read = load(&sources(&file(&all))).unwrap().settings;
    assert!(read.vm.is_some() && read.owner.is_some() && read.polls.len() == 1);
}

#[test]
fn every_flag_has_a_key_and_every_setting_a_flag() {
    let command = crate::cli::command();
    let run = command.find_subcommand("run").unwrap();
    let own = ["help", "check", "print-config", "config"];
    for flag in run.get_arguments().map(|arg| arg.get_id().as_str()) {
        let known = CATALOGUE
            .settings
            .iter()
            .any(|setting| setting.flag == flag);
        assert!(known || own.contains(&flag), "--{flag}");
    }
    for setting in CATALOGUE.settings {
        assert!(
            run.get_arguments().any(|arg| arg.get_id() == setting.flag),
            "{}",
            setting.key
        );
    }
}

#[test]
fn a_context_that_cannot_be_is_refused() {
    let config = |text: &str| {
        let settings = load(&sources(&file(text))).unwrap().settings;
        settings.run_config().map(|config| config.context)
    };
    assert_eq!(config("[context]\nlinger = '1s'\n").unwrap(), None);
    let good = config("[context]\nmount = '/c'\n[context.directories]\nservice = '/d'\n");
    let good = good.unwrap().unwrap();
    let classes: Vec<String> = good.classes.iter().map(ToString::to_string).collect();
    assert_eq!(classes, ["infrastructure", "service"]);
    for (text, word) in [
        ("[context]\nmount = '/kpi/c'\n", "side by side"),
        ("[context]\nmount = '/'\n", "side by side"),
        ("[context]\nmount = '/c'\nhooks = '/c/hooks'\n", "image's"),
        (
            "[context]\nmount = '/c'\n[context.directories]\nsite = '/d'\n",
            "context.classes",
        ),
        (
            "[context]\nmount = '/c'\n[context.directories]\nservice = '/c/d'\n",
            "image's",
        ),
    ] {
        let error = config(text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    for (text, word) in [
        ("[context]\nclasses = 'a,a'\n", "twice"),
        ("[context]\nclasses = ''\n", "class"),
        ("[context]\nclasses = 'A'\n", "lower-case"),
        ("[context.directories]\nUP = '/d'\n", "lower-case"),
        ("[context.directories]\nservice = ''\n", "empty path"),
    ] {
        let said = problems(text).join("\n");
        assert!(said.contains(word), "{said}");
    }
}
