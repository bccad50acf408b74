//! The context partition on a real mount: layers over layers, and what its users see while they change.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

mod common;
mod context {
    pub mod hooks;
    pub mod lab;
    pub mod media;
    pub mod switches;
}

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::until;
use context::lab::Lab;

fn errno(error: &std::io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap())
}

#[test]
fn layers_are_one_tree_and_the_higher_wins_both_ways() {
    let lab = Lab::new();
    lab.infrastructure(&[
        ("d/x", "high"),
        ("file-over-dir", "high"),
        ("dir-over-file/y", "high"),
    ]);
    lab.service(&[
        ("d/x", "low"),
        ("d/z", "low"),
        ("file-over-dir/hidden", "low"),
        ("dir-over-file", "low"),
    ]);
    let lab = lab.start(&[]);
    assert_eq!(
        lab.tree(),
        [
            "d/",
            "d/x=high",
            "d/z=low",
            "dir-over-file/",
            "dir-over-file/y=high",
            "file-over-dir=high",
            "generation=1\n",
        ]
    );
    assert_eq!(
        lab.ls(""),
        ["d", "dir-over-file", "file-over-dir", "generation"]
    );
    let shown = lab.context(&["where", "dir-over-file"]);
    let layers = shown["layers"].as_array().unwrap();
    assert_eq!(
        (layers[0]["shown"].as_bool(), layers[1]["shown"].as_bool()),
        (Some(true), Some(false))
    );
    assert_eq!(layers[1]["class"], "service");
    let absolute = lab.path("d/z");
    assert_eq!(
        lab.context(&["where", absolute.to_str().unwrap()])["layers"][0]["class"],
        "service"
    );
    assert_eq!(lab.context_code(&["where", "none"]), Some(1));
}

#[test]
fn nobody_writes_and_everybody_reads() {
    let lab = Lab::new();
    lab.service(&[("d/x", "text")]);
    let lab = lab.start(&[]);
    let (file, directory) = (lab.path("d/x"), lab.path("d"));
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.len(), metadata.nlink()),
        (0o444, 4, 1)
    );
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o555);
    let refused = [
        fs::write(&file, "x"),
        fs::write(lab.path("new"), "x"),
        fs::create_dir(lab.path("new")),
        fs::remove_file(&file),
        fs::rename(&file, lab.path("y")),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o777)),
        std::os::unix::fs::symlink("/etc", lab.path("link")),
        fs::hard_link(&file, lab.path("hard")),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(
            errno(&refused.unwrap_err()),
            nix::errno::Errno::EROFS,
            "{at}"
        );
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.contains(lab.mount().to_str().unwrap()))
        .unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.contains(option), "{mount}");
    }
    let room = nix::sys::statvfs::statvfs(&lab.mount()).unwrap();
    assert_eq!(
        (room.blocks_free(), room.files(), room.files_free()),
        (0, 4, 0)
    );
}

#[test]
fn warm_reads_and_missing_names_are_the_kernels_own() {
    let lab = Lab::new();
    lab.service(&[("d/x", "text")]);
    let lab = lab.start(&[]);
    let look = || {
        assert_eq!(lab.read("d/x"), "text");
        assert!(!lab.path("d/none").exists());
    };
    look();
    let before = lab.reads();
    for _ in 0..2_000 {
        look();
    }
    // Of its own it reads next to nothing; each of these would have been a request or more.
    let requests = lab.reads() - before;
    assert!(
        requests < 200,
        "{requests} reads of the program for 4,000 look-ups"
    );
}

#[test]
fn what_is_open_or_mapped_stays_what_it_was() {
    let lab = Lab::new();
    // Larger than what the kernel reads ahead, so that most of it is asked for after the change.
    let old: String = (0..400_000).map(|n| format!("old{n:05}\n")).collect();
    lab.service(&[("f", &old), ("d/inner", "x")]);
    let lab = lab.start(&[]);
    let mut open = File::open(lab.path("f")).unwrap();
    let mut start = [0; 9];
    open.read_exact(&mut start).unwrap();
    let script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nm[0]\nf.close()\nprint(flush=True)\n\
                  sys.stdin.readline()\nsys.stdout.buffer.write(m[:])";
    let mut mapper = Command::new("python3")
        .args(["-c", script])
        .arg(lab.path("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut mapped = BufReader::new(mapper.stdout.take().unwrap());
    let mut line = String::new();
    mapped.read_line(&mut line).unwrap();

    lab.service(&[("f/is", "a directory now")]);
    lab.switch();
    assert_eq!(
        fs::read_to_string(lab.path("f/is")).unwrap(),
        "a directory now"
    );
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert!(
        old.ends_with(&rest) && rest.len() == old.len() - 9,
        "the handle keeps the old version"
    );
    assert_eq!(open.metadata().unwrap().len(), old.len() as u64);
    mapper.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut seen = String::new();
    mapped.read_to_string(&mut seen).unwrap();
    assert!(seen == old, "so does the mapping");
    assert!(mapper.wait().unwrap().success());
    drop(open);
    // What nobody uses any more is let go, the layer's content with it.
    until("the old layer to be let go", || lab.spools() == 1);
}

#[test]
fn a_directory_that_vanishes_is_empty_for_who_is_in_it_and_the_same_when_it_is_back() {
    let lab = Lab::new();
    lab.service(&[("d/e/x", "1"), ("other", "1")]);
    let lab = lab.start(&[]);
    let script = "cd \"$1\" && cat x && echo ready && read go && { cat x 2>&1; ls; echo gone; } && read go && cat x && echo back";
    let mut shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(lab.path("d/e"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut stdin = shell.stdin.take().unwrap();
    assert_eq!(lines.next().unwrap(), "1ready");
    lab.service(&[("other", "1")]);
    lab.switch();
    stdin.write_all(b"go\n").unwrap();
    assert!(lines.next().unwrap().contains("No such file"));
    assert_eq!(lines.next().unwrap(), "gone");
    lab.service(&[("d/e/x", "2"), ("other", "1")]);
    lab.switch();
    assert_eq!(fs::read_to_string(lab.path("d/e/x")).unwrap(), "2");
    stdin.write_all(b"go\n").unwrap();
    assert_eq!(lines.next().unwrap(), "2back");
    assert!(shell.wait().unwrap().success());
}

#[test]
fn a_layer_that_vanishes_lingers_unless_another_comes() {
    let lab = Lab::new();
    lab.infrastructure(&[("who", "infrastructure"), ("only", "here")]);
    lab.service(&[("who", "service")]);
    let lab = lab.start(&["--context-linger", "2s"]);
    let begin = Instant::now();
    lab.remove_infrastructure();
    lab.guest().hang_up();
    until("it to linger", || {
        lab.context(&[])["layers"][0]["lingers"] == true
    });
    assert_eq!(lab.read("who"), "infrastructure");
    until("the lower layer", || lab.read("who") == "service");
    assert!(
        begin.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(!lab.path("only").exists());
    until("it to count", || lab.read("generation") == "2\n");

    lab.infrastructure(&[("who", "back")]);
    lab.switch();
    lab.remove_infrastructure();
    lab.guest().hang_up();
    until("it to linger", || {
        lab.context(&[])["layers"][0]["lingers"] == true
    });
    lab.infrastructure(&[("who", "replaced")]);
    lab.switch();
    assert_eq!(
        (lab.read("who").as_str(), lab.read("generation").as_str()),
        ("replaced", "4\n")
    );
    assert_eq!(lab.context(&[])["layers"][0]["lingers"], false);
}

#[test]
fn what_changed_is_told_and_a_bad_layer_leaves_the_old_in_force() {
    let lab = Lab::new();
    lab.service(&[("a", "1"), ("b", "1")]);
    let lab = lab.start(&[]);
    lab.service(&[("a", "2"), ("c", "1")]);
    lab.switch();
    let changes = lab.context(&["changes"]);
    let last = changes["changes"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["generation"], &last["paths"]),
        (&2.into(), &3.into())
    );
    let told: Vec<String> = last["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{} {}",
                c["change"].as_str().unwrap(),
                c["path"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(told, ["changed a", "removed b", "added c"]);

    let many: Vec<(String, String)> = (0..4097)
        .map(|n| (format!("f{n}"), String::new()))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    lab.service(&many);
    lab.guest().hang_up();
    until("the refusal", || {
        lab.context(&[])["problems"].to_string().contains("4096")
    });
    assert_eq!(
        (lab.read("a").as_str(), lab.read("generation").as_str()),
        ("2", "2\n")
    );
    let advice = lab.guest().status()["advice"].to_string();
    assert!(advice.contains("4096"), "{advice}");
    // At the limit it is taken, and listed whole.
    lab.service(&many[..4096]);
    lab.switch();
    assert_eq!(lab.ls("").len(), 4097);
    let deep = ["d"; 16].join("/");
    lab.service(&[(deep.as_str(), "deep")]);
    lab.switch();
    assert_eq!(lab.read(&deep), "deep");
    lab.service(&[(format!("{deep}/e").as_str(), "deeper")]);
    lab.guest().hang_up();
    until("the refusal", || {
        lab.context(&[])["problems"].to_string().contains("deeper")
    });
    assert_eq!(lab.read(&deep), "deep");
}

#[test]
fn without_a_mount_there_is_no_context_and_it_is_said() {
    let guest = common::Guest::start();
    let out = Command::new(common::PROGRAM)
        .args(["context", "--state"])
        .arg(guest.state())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("context.mount"));
    assert!(guest.status()["live"]["context"].is_null());
}

#[test]
fn an_unmount_from_outside_is_said_and_the_kpis_go_on() {
    let lab = Lab::new();
    lab.service(&[("a", "1")]);
    let lab = lab.start(&[]);
    assert!(
        Command::new("umount")
            .arg(lab.mount())
            .status()
            .unwrap()
            .success()
    );
    until("the advice", || {
        lab.guest().status()["advice"]
            .to_string()
            .contains("was unmounted")
    });
    lab.guest().write("unencrypted/x", "1\n").unwrap();
}
