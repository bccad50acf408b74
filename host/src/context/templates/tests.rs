//! What folders say, and what becomes of it.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use vmkpi::descriptor::{Descriptor, Spelling};

use super::super::render::{Words, render};
use super::*;

/// A directory with these files, below the folder of a class.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    for (path, text) in files {
        put(directory.path(), path, text);
    }
    directory
}

fn put(directory: &Path, path: &str, text: &str) {
    let file = directory.join(path);
    for parent in file
        .parent()
        .unwrap()
        .ancestors()
        .take_while(|p| *p != directory)
    {
        std::fs::create_dir_all(parent).unwrap();
        set_permissions(parent, Permissions::from_mode(0o755)).unwrap();
    }
    write(&file, text).unwrap();
    set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
}

fn descriptor(text: &str) -> Descriptor {
    let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    Descriptor::parse(text, Spelling::Toml, &no_files).unwrap()
}

/// The files of a VM's layer, as text, or what is wrong.
fn made(directory: &Path, vm: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let contents = read(directory).map_err(|problems| super::super::in_lines(&problems))?;
    let descriptor = vm.map(descriptor);
    let words = Words {
        descriptor: descriptor.as_ref(),
        uuid: "u-1",
        event: "migrated",
    };
    let mut all = Vec::new();
    for (class, content) in contents {
        let files = render(&content, &words).map_err(|problem| problem.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let files = files.into_iter();
        all.extend(files.map(|(path, bytes)| (format!("{class}/{path}"), text(bytes))));
    }
    Ok(all)
}

/// The same, when it is refused.
fn refused(directory: &Path, vm: Option<&str>) -> String {
    let said = made(directory, vm).unwrap_err();
    said.replace(&directory.display().to_string(), "DIR")
}

const SHOP: &str = "vm = \"shop-1\"\nservice = \"shop\"\nprimary_site = \"acme\"\n";

#[test]
fn files_are_as_they_are_and_templates_are_made_for_the_vm() {
    let directory = directory(&[
        ("README", "nobody's"),
        ("infrastructure/legislation", "EU\n"),
        (
            "infrastructure/monitoring/endpoint.j2",
            "virtio-serial:org.vmkpi.{{ vm }}\n",
        ),
        (
            "infrastructure/who.j2",
            "{{ vm }} of {{ service }} at {{ primary_site }}, {{ uuid }}, {{ event }}<&>\n",
        ),
        ("infrastructure/braces", "{{ vm }}"),
        ("infrastructure/inc.j2", "{% include 'who.j2' %}"),
        ("service/a/b/c", "deep"),
    ]);
    let who = "shop-1 of shop at acme, u-1, migrated<&>\n";
    let due = [
        ("infrastructure/braces", "{{ vm }}"),
        ("infrastructure/inc", who),
        ("infrastructure/legislation", "EU\n"),
        (
            "infrastructure/monitoring/endpoint",
            "virtio-serial:org.vmkpi.shop-1\n",
        ),
        ("infrastructure/who", who),
        ("service/a/b/c", "deep"),
    ];
    let due = due.map(|(path, text)| (path.to_owned(), text.to_owned()));
    assert_eq!(made(directory.path(), Some(SHOP)).unwrap(), due);
}

#[test]
fn mistakes_in_templates_are_said_with_file_and_line() {
    let cases = [
        ("a\n{{ vm }\n", "DIR/infrastructure/t.j2:2: syntax error"),
        (
            "a\n\n{{ nobody }}\n",
            "DIR/infrastructure/t.j2:3: undefined value",
        ),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "DIR/infrastructure/t.j2:1: engine ran out of fuel",
        ),
        ("{% include 'none.j2' %}", "DIR/infrastructure/"),
    ];
    for (text, due) in cases {
        let directory = directory(&[("infrastructure/t.j2", text)]);
        let said = refused(directory.path(), Some(SHOP));
        assert!(said.starts_with(due), "{said}");
    }
    let directory = directory(&[("infrastructure/t.j2", "{{ service }}")]);
    let said = refused(directory.path(), Some("vm = \"a\"\nprimary_site = \"s\"\n"));
    assert!(said.contains("undefined value"), "{said}");
    let said = refused(directory.path(), None);
    assert!(said.contains("undefined value"), "{said}");
}

#[test]
fn an_endpoint_that_a_guest_would_refuse_is_refused_here() {
    for (text, due) in [
        ("unix:/run/x.sock\n", "may not be named by a context"),
        ("vsock:7:9001", "may not be named by a context"),
        ("tls:", "is no link URL"),
        ("http://x", "is no link URL"),
        ("virtio-serial:com.other", "is no link URL"),
        ("", "is no link URL"),
    ] {
        let directory = directory(&[("infrastructure/monitoring/endpoint", text)]);
        let said = refused(directory.path(), None);
        assert!(
            said.starts_with("DIR/infrastructure/monitoring/endpoint: "),
            "{said}"
        );
        assert!(said.contains(due), "{said}");
    }
    for url in ["vsock:2:9001\n", "tls:host.example:9879"] {
        let good = directory(&[("infrastructure/monitoring/endpoint", url)]);
        assert!(made(good.path(), None).is_ok(), "{url}");
    }
}

#[test]
fn what_others_may_have_written_is_not_offered() {
    let directory = directory(&[("infrastructure/a/b", "text")]);
    let root = directory.path();
    for (path, mode, back) in [
        ("", 0o777, 0o755),
        ("infrastructure", 0o775, 0o755),
        ("infrastructure/a", 0o757, 0o755),
        ("infrastructure/a/b", 0o666, 0o644),
    ] {
        let path = root.join(path);
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let said = refused(root, None);
        assert!(
            said.contains("others may write it") && said.contains("chmod go-w"),
            "{said}"
        );
        set_permissions(&path, Permissions::from_mode(back)).unwrap();
    }
    assert!(made(root, None).is_ok());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("infrastructure/a/b"), Some(12345), None).unwrap();
        let said = refused(root, None);
        assert!(said.contains("it belongs to user 12345"), "{said}");
    }
}

#[test]
fn what_is_no_layer_is_refused_and_nothing_is_waited_for() {
    let root = directory(&[("infrastructure/f", "x")]);
    let class = root.path().join("infrastructure");
    symlink("/etc/passwd", class.join("link")).unwrap();
    assert!(refused(root.path(), None).contains("links are not followed"));
    std::fs::remove_file(class.join("link")).unwrap();
    nix::unistd::mkfifo(&class.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(refused(root.path(), None).contains("neither a file nor a directory"));
    std::fs::remove_file(class.join("pipe")).unwrap();
    write(class.join("new\nline"), "").unwrap();
    assert!(refused(root.path(), None).contains("without control characters"));
    std::fs::remove_file(class.join("new\nline")).unwrap();
    put(root.path(), "infrastructure/f.j2", "x");
    assert!(refused(root.path(), None).contains("f.j2, too"));
    std::fs::remove_file(class.join("f.j2")).unwrap();
    put(root.path(), "infrastructure/sub/.j2", "x");
    assert!(refused(root.path(), None).contains("nothing is left of its name"));
    std::fs::remove_file(class.join("sub/.j2")).unwrap();
    let deep = format!("infrastructure/{}f", "d/".repeat(MAX_DEPTH));
    put(root.path(), &deep, "x");
    assert!(refused(root.path(), None).contains("deeper"));
    std::fs::remove_dir_all(class.join("d")).unwrap();
    put(root.path(), "Infrastructure/f", "x");
    assert!(refused(root.path(), None).contains("is no context class"));
    assert!(refused(&root.path().join("nowhere"), None).contains("No such file"));
    assert!(refused(&root.path().join("infrastructure/f"), None).contains("it is no directory"));
}

#[test]
fn a_layer_has_a_limit_and_so_has_what_is_made_of_it() {
    let root = directory(&[("infrastructure/f", "x")]);
    let file = File::create(root.path().join("infrastructure/big")).unwrap();
    file.set_len(MAX_IMAGE_BYTES).unwrap();
    assert!(refused(root.path(), None).contains("bytes in all"));
    file.set_len(MAX_IMAGE_BYTES - 100).unwrap();
    put(
        root.path(),
        "infrastructure/t.j2",
        "{% for i in range(99) %}{{ uuid }}{% endfor %}",
    );
    assert!(
        refused(root.path(), None).contains("the layer has over"),
        "{}",
        refused(root.path(), None)
    );
}

#[test]
fn a_change_is_read_when_it_has_been_left_alone() {
    let root = directory(&[("infrastructure/f", "one")]);
    let (mut looker, path) = (Looker::default(), root.path());
    assert_eq!(looker.look(path).unwrap().unwrap().len(), 1);
    assert!(looker.look(path).is_none());
    put(path, "infrastructure/f", "other");
    assert!(
        looker.look(path).is_none(),
        "it is being written to, perhaps"
    );
    let changed = looker.look(path).unwrap().unwrap();
    let class: Class = "infrastructure".parse().unwrap();
    assert_eq!(changed[&class].plain["f"], b"other");
    assert!(looker.look(path).is_none());
    put(path, "service/g", "x");
    assert!(looker.look(path).is_none());
    assert_eq!(looker.look(path).unwrap().unwrap().len(), 2);
    put(path, "service/g.j2", "x");
    assert!(looker.look(path).is_none());
    assert!(looker.look(path).unwrap().is_err());
    assert!(looker.look(path).is_none(), "said once");
}
