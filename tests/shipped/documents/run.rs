//! Each page is run as it stands, by one shell in a folder of its own.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use vmkpi_tests::document::{Block, Page};
use vmkpi_tests::scratch::{Scratch, free_address};
use vmkpi_tests::shell::{Shell, normal, says};

use super::{page, pages};

/// What a page takes for granted.
struct Scene {
    /// The page.
    path: &'static str,
    /// What has been done before it is read.
    before: &'static str,
    /// What is elsewhere here: on the page, and in the test's folder.
    moved: &'static [(&'static str, &'static str)],
}

/// A broker for the day, at the port that pages name.
const BROKER: &str = "printf 'listener 1883 127.0.0.1\\nallow_anonymous true\\n' > mosquitto.conf
mosquitto -c mosquitto.conf 2> broker.log &";

/// A guest with a partition and the owner's key, applications, and mail.
const GUEST: &str = "vmkpi key new seal --dir keys > keys.log
export VMKPI_GUEST_STATE=guest VMKPI_GUEST_VM=shop-frontend-1 VMKPI_GUEST_PRIMARY_KEY_FILE=keys/seal.pub.pem
mkdir kpi; vmkpi-guest run --mount kpi --link \"unix:$PWD/guest.sock\" 2> guest.log &
until [ -d kpi/encrypted ]; do sleep 0.1; done
app-kpis() { printf 'orders\\n7\\n'; }
mail() { cat > mail.txt; }";

/// What an operator has who reads docs/OPERATIONS.md: the whole chain, with a Consumer that confirms. systemd's place is
/// taken by functions that start and stop the same programs; tests/shipped/packages.rs has the services.
const CHAIN: &str = include_str!("operations.sh");

/// A page without one takes nothing for granted.
const SCENES: &[Scene] = &[
    Scene {
        path: "docs/COLLECT.md",
        before: BROKER,
        moved: &[],
    },
    Scene {
        path: "docs/GUEST.md",
        before: GUEST,
        moved: &[("/kpi/", "kpi/")],
    },
    Scene {
        path: "README.md",
        before: GUEST,
        moved: &[("/kpi/", "kpi/")],
    },
    Scene {
        path: "docs/OPERATIONS.md",
        before: CHAIN,
        moved: &[
            ("/var/lib/vmkpi-collect", "site"),
            ("/var/lib/vmkpi-host", "host"),
            ("/var/lib/vmkpi", "guest"),
            ("/etc/vmkpi", "etc"),
            ("/backup", "backup"),
            ("/kpi/", "kpi/"),
        ],
    },
];

/// As root, mosquitto becomes a user who may not read the test's files.
const MOSQUITTO: &str = "mosquitto() { echo \"user $(id -un)\" >> \"$2\"; exec mosquitto \"$@\"; }";

/// Ports that the commands name.
fn ports(blocks: &[Block]) -> BTreeSet<String> {
    let mut ports = BTreeSet::new();
    for block in blocks {
        for mark in ["localhost:", "127.0.0.1:"] {
            for rest in block.body.split(mark).skip(1) {
                let digits = rest.chars().take_while(char::is_ascii_digit);
                ports.insert(digits.collect::<String>());
            }
        }
    }
    ports.retain(|port| port.len() > 3);
    ports
}

/// A free port in which none of these is found: it would be replaced in its turn.
fn other_port(named: &BTreeSet<String>) -> Result<String> {
    for _ in 0..100 {
        let port = free_address()?.port().to_string();
        if !named.iter().any(|name| port.contains(name)) {
            return Ok(port);
        }
    }
    bail!("no free port")
}

/// The page's commands, with ports of the test's own and what is elsewhere here; what comes before them is the first.
fn runnable(page: &Page, scene: Option<&Scene>) -> Result<Vec<Block>> {
    let commands = |block: &Block| block.language == "sh" && block.excuse.is_none();
    let mut blocks = page.blocks();
    blocks.retain(commands);
    if let Some(scene) = scene {
        let body = scene.before.to_owned();
        blocks.insert(
            0,
            Block {
                body,
                ..Block::default()
            },
        );
    }
    let mut moved: Vec<(String, String)> = Vec::new();
    let ports = ports(&blocks);
    for port in &ports {
        moved.push((port.clone(), other_port(&ports)?));
    }
    for (from, to) in scene.map_or(&[] as &[_], |scene| scene.moved) {
        moved.push(((*from).to_owned(), (*to).to_owned()));
    }
    for (from, to) in &moved {
        for block in &mut blocks {
            block.body = block.body.replace(from, to);
            for line in &mut block.prints {
                *line = line.replace(from, to);
            }
        }
    }
    Ok(blocks)
}

/// Runs a page's commands, one block after the other.
fn run(page: &Page) -> Result<()> {
    let scene = SCENES.iter().find(|scene| scene.path == page.path);
    let blocks = runnable(page, scene)?;
    if blocks.is_empty() {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let mut shell = Shell::start(&scratch)?;
    shell.run(MOSQUITTO)?;
    for block in &blocks {
        let begin = std::time::Instant::now();
        let checked = shell.check(block);
        // Seen with --nocapture, by whoever wonders which page takes long.
        eprintln!("{}:{} {:?}", page.path, block.line, begin.elapsed());
        if let Err(error) = checked {
            let logs = shell.run("tail -n 5 *.log */*.log")?.0.join("\n");
            bail!("{}: {error:#}\n{logs}", page.path);
        }
    }
    if page.text.contains("rm -r two-sites") {
        let left = std::fs::read_dir(scratch.path())?.count();
        ensure!(left == 0, "{}: {left} files are left", page.path);
    }
    Ok(())
}

/// All pages but those with a test of their own, at once: they wait more than they compute.
#[test]
fn every_page_does_what_it_says() -> Result<()> {
    let pages = pages()?;
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = pages
            .iter()
            .map(|page| scope.spawn(move || run(page)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a page's thread has panicked"),
        };
        running.into_iter().map(join).collect()
    });
    let wrong: Vec<String> = results
        .into_iter()
        .filter_map(|result| result.err().map(|error| format!("{error:#}")))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let blocks = runnable(&page("docs/TWO-SITES.md")?, None)?;
    ensure!(blocks.len() > 12, "{} blocks of two sites", blocks.len());
    Ok(())
}

#[test]
fn what_differs_from_run_to_run_does_not_count_and_words_do() {
    assert_eq!(normal("a  54.0 s"), normal("a 9.2 s"));
    assert_eq!(
        normal("k FZ6lqyiysiZsj7auyBTOKbhiO…"),
        normal("k 1/e66I9VZvK/v7LIuhtfl")
    );
    assert_ne!(normal("3 rows"), normal("4 rows"));
    assert_ne!(normal("all is well"), normal("all is not well"));
    let lines = ["one 1".to_owned(), "two".to_owned()];
    let page = ["one 1".to_owned(), "...".to_owned(), "two".to_owned()];
    assert!(says(&lines, &page).is_ok());
    assert!(says(&lines, &["two".to_owned(), "one 1".to_owned()]).is_err());
}
