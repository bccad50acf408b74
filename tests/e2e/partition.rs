//! A thousand stores by each of a shell loop, a Python script and a C program.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vmkpi_tests::chain::{Chain, EVERY_ROW};

const STORES: u64 = 1000;

const SHELL: &str = r#"i=1; while [ $i -le 1000 ]; do
printf 'n,half,word,zip,none\n%d,%d.5,w%d,007,\n' $i $i $i > "$1" || exit 1
i=$((i+1)); done"#;

const PYTHON: &str = r#"
import sys
for i in range(1, 1001):
    with open(sys.argv[1], "w") as f:
        f.write("n,half,word,zip,none\n%d,%d.5,w%d,007,\n" % (i, i, i))
"#;

const C: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 1; i <= 1000; i++) {
        FILE *f = fopen(argv[1], "w");
        if (!f) return 1;
        fprintf(f, "n,half,word,zip,none\n%d,%d.5,w%d,007,\n", i, i, i);
        if (fclose(f)) return 2;
    }
    return argc - 2;
}
"#;

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

fn write_in_three_languages(chain: &Chain) -> Result<()> {
    let folder = chain.mount().join("unencrypted");
    let (source, program) = (
        chain.folder().join("writer.c"),
        chain.folder().join("writer-in-c"),
    );
    std::fs::write(&source, C)?;
    run(Command::new("gcc").args([&source, Path::new("-o"), &program]))?;
    run(Command::new("sh")
        .args(["-c", SHELL, "sh"])
        .arg(folder.join("shell")))?;
    run(Command::new("python3")
        .args(["-c", PYTHON])
        .arg(folder.join("python")))?;
    run(Command::new(&program).arg(folder.join("c")))
}

#[test]
fn a_thousand_stores_by_shell_python_and_c_arrive_as_written() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    write_in_three_languages(&chain)?;
    for name in ["shell", "python", "c"] {
        let types = "typeof(n)='integer' AND typeof(half)='real' AND typeof(word)='text' \
                     AND zip='007' AND none IS NULL AND n=_seq";
        let sql = format!(
            "SELECT count(*), count(DISTINCT _seq), min(_seq), max(_seq), sum({types}) FROM \"{name}\""
        );
        let rows = chain.query("unencrypted.db", &sql)?;
        assert_eq!(rows, [json!([STORES, STORES, 1, STORES, STORES])], "{name}");
        samples_are_as_written(&chain, name)?;
        let last = std::fs::read_to_string(chain.mount().join("unencrypted").join(name))?;
        assert_eq!(last, "n,half,word,zip,none\n1000,1000.5,w1000,007,\n");
    }
    Ok(())
}

fn samples_are_as_written(chain: &Chain, name: &str) -> Result<()> {
    let point = format!("unencrypted/{name}");
    let of_point = |lines: &[Value]| -> Vec<Value> {
        lines
            .iter()
            .filter(|l| l["point"] == *point && l["specifier"] == "every-row")
            .cloned()
            .collect()
    };
    let lines = chain.wait_for_lines(30, &format!("{STORES} samples of {name}"), |lines| {
        of_point(lines).len() as u64 >= STORES
    })?;
    let lines = of_point(&lines);
    assert_eq!(lines.len() as u64, STORES, "{name}");
    for (seq, line) in (1..).zip(&lines) {
        let values = json!({"n": seq, "half": seq as f64 + 0.5, "word": format!("w{seq}"),
                            "zip": "007", "none": null});
        assert_eq!(
            (&line["seq"], &line["values"]),
            (&json!(seq), &values),
            "{line}"
        );
        assert_eq!(
            (&line["site"], &line["vm"]),
            (&json!("acme"), &json!("shop"))
        );
    }
    Ok(())
}

#[test]
fn encrypted_bytes_arrive_unread() -> Result<()> {
    let chain = Chain::start(EVERY_ROW)?;
    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(chain.mount().join("encrypted/orders"), &bytes)?;
    let lines = chain.wait_for_lines(20, "the blob", |lines| {
        lines.iter().any(|l| l["point"] == "encrypted/orders")
    })?;
    let line = lines.iter().find(|l| l["point"] == "encrypted/orders");
    let text = line
        .and_then(|l| l["data_base64"].as_str())
        .unwrap_or_default();
    let expected = serde_json::to_value(vmkpi::value::Base64Bytes(bytes))?;
    assert_eq!(json!(text), expected);
    Ok(())
}
