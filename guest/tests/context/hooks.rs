//! Hooks: who runs, in which order, told what, and how often.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::lab::Lab;
use crate::common::until;

/// A hook that appends a line to a file.
fn noting(lab: &Lab, line: &str) -> String {
    format!("echo {line} >> {}", lab.dir().join("notes").display())
}

fn notes(lab: &Lab) -> Vec<String> {
    let text = fs::read_to_string(lab.dir().join("notes")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn hooks_run_in_order_after_the_change_is_in_force_and_what_is_not_the_images_does_not() {
    let lab = Lab::new();
    lab.service(&[("address", "one"), ("d/x", "same")]);
    lab.hook("20-second", &noting(&lab, "second"));
    lab.hook(
        "10-first",
        &noting(
            &lab,
            "first $VMKPI_GENERATION $(cat $VMKPI_CONTEXT/generation $VMKPI_CONTEXT/address)",
        ),
    );
    lab.hook(
        "30-input",
        &format!(
            "cat > {}; echo said; exit 7",
            lab.dir().join("input").display()
        ),
    );
    for (name, mode) in [("40-group", 0o775), ("50-others", 0o757)] {
        lab.hook(name, &noting(&lab, "never"));
        let path = lab.dir().join("hooks").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    lab.hook("60-foreign", &noting(&lab, "never"));
    let chown = Command::new("chown")
        .arg("65534")
        .arg(lab.dir().join("hooks/60-foreign"))
        .status();
    let root = chown.unwrap().success();
    let lab = lab.start(&[]);
    lab.wait_for_hooks();
    assert_eq!(notes(&lab), ["first 1 1 one", "second"]);
    let input = fs::read_to_string(lab.dir().join("input")).unwrap();
    let expected = "{\"path\":\"address\",\"change\":\"added\",\"layer\":\"service\"}\n\
                    {\"path\":\"d/\",\"change\":\"added\",\"layer\":\"service\"}\n\
                    {\"path\":\"d/x\",\"change\":\"added\",\"layer\":\"service\"}\n";
    assert_eq!(input, expected);

    let hooks = &lab.context(&[])["hooks"];
    let outcomes = hooks["outcomes"].as_array().unwrap();
    let names: Vec<&str> = outcomes
        .iter()
        .map(|o| o["hook"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["10-first", "20-second", "30-input"]);
    assert_eq!(outcomes[2]["result"], "exit status 7");
    assert_eq!(outcomes[2]["output"][0], "said");
    assert_eq!(
        hooks["refused"].as_array().unwrap().len(),
        if root { 3 } else { 2 }
    );
    let advice = lab.guest().status()["advice"].to_string();
    for word in ["30-input failed", "(said)", "chmod go-w"] {
        assert!(advice.contains(word), "{advice}");
    }

    lab.service(&[("address", "two"), ("d/x", "same")]);
    lab.switch();
    until("the hooks of the change", || notes(&lab).len() == 4);
    assert_eq!(notes(&lab)[2..], ["first 2 2 two", "second"]);
    until("all of them", || {
        let input = fs::read_to_string(lab.dir().join("input")).unwrap();
        input == "{\"path\":\"address\",\"change\":\"changed\",\"layer\":\"service\"}\n"
    });
}

#[test]
fn one_that_hangs_is_killed_and_the_next_runs() {
    let lab = Lab::new();
    lab.service(&[("a", "1")]);
    lab.hook("10-hangs", "sleep 600 & echo $!; wait");
    lab.hook("20-next", &noting(&lab, "next"));
    let lab = lab.start(&["--context-hook-timeout", "500ms"]);
    lab.wait_for_hooks();
    let outcomes = lab.context(&[])["hooks"]["outcomes"].clone();
    assert_eq!(
        (&outcomes[0]["ok"], &outcomes[0]["result"]),
        (&false.into(), &"killed after 500ms".into())
    );
    assert_eq!(notes(&lab), ["next"]);
    let child = format!("/proc/{}/stat", outcomes[0]["output"][0].as_str().unwrap());
    until("its child to be gone", || {
        fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z"))
    });
}

#[test]
fn changes_during_a_run_are_told_together_in_the_next() {
    let lab = Lab::new();
    lab.service(&[("a", "1")]);
    let gate = lab.dir().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    let told = noting(&lab, "$VMKPI_GENERATION: $VMKPI_CHANGED");
    lab.hook("10", &format!("{}; {wait}; {told}", noting(&lab, "begins")));
    let lab = lab.start(&[]);
    until("the first run", || notes(&lab) == ["begins"]);
    for (version, extra) in [("2", "b"), ("3", "c"), ("1", "d")] {
        lab.service(&[("a", version), (extra, "")]);
        lab.switch();
    }
    assert_eq!(lab.context(&[])["hooks"]["waiting"], true);
    fs::write(gate, "").unwrap();
    until("the second run", || notes(&lab).len() == 4);
    // `a` is what it was before, and a hook that has read it meanwhile is told to read again.
    assert_eq!(notes(&lab), ["begins", "1: a", "begins", "4: a b c d"]);
    lab.wait_for_hooks();
    assert_eq!(lab.context(&[])["hooks"]["runs"], 2);
}

#[test]
fn a_restart_without_changes_runs_no_hook_and_generations_go_on() {
    let lab = Lab::new();
    lab.service(&[("a", "1")]);
    lab.hook("10", &noting(&lab, "$VMKPI_GENERATION"));
    let mut lab = lab.start(&[]);
    lab.wait_for_hooks();
    let since = fs::metadata(lab.path("a")).unwrap().modified().unwrap();
    for kill in [true, false] {
        if kill {
            lab.guest_mut().kill();
        } else {
            lab.guest_mut().terminate();
        }
        lab.guest_mut().restart();
        assert_eq!(
            (lab.read("a").as_str(), lab.read("generation").as_str()),
            ("1", "1\n")
        );
        assert_eq!(
            fs::metadata(lab.path("a")).unwrap().modified().unwrap(),
            since
        );
    }
    lab.guest_mut().kill();
    lab.service(&[("a", "2")]);
    lab.guest_mut().restart();
    lab.wait_for_hooks();
    assert_eq!(
        (lab.read("a").as_str(), lab.read("generation").as_str()),
        ("2", "2\n")
    );
    assert_eq!(notes(&lab), ["1", "2"]);
    assert_eq!(lab.context_code(&["apply"]), Some(0));
    assert_eq!(
        notes(&lab),
        ["1", "2", "2"],
        "apply runs them all the same, and waits"
    );
}

#[test]
fn hooks_that_were_interrupted_run_again() {
    let lab = Lab::new();
    lab.service(&[("a", "1")]);
    let gate = lab.dir().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    lab.hook(
        "10",
        &format!(
            "{}; {wait}; {}",
            noting(&lab, "begins"),
            noting(&lab, "ends $VMKPI_CHANGED")
        ),
    );
    let mut lab = lab.start(&[]);
    until("the first run", || notes(&lab) == ["begins"]);
    lab.guest_mut().terminate();
    lab.guest_mut().restart();
    until("the second run", || notes(&lab) == ["begins", "begins"]);
    fs::write(&gate, "").unwrap();
    until("its end", || notes(&lab).len() == 3);
    assert_eq!(notes(&lab)[2], "ends a");
    assert_eq!(lab.read("generation"), "2\n", "more than any that was seen");
}
