use super::*;

mod spellings;

fn no_file(path: &Path) -> std::io::Result<String> {
    Err(std::io::Error::other(format!(
        "{} is not read in tests",
        path.display()
    )))
}

fn toml(text: &str) -> Result<Descriptor, Vec<DescriptorError>> {
    Descriptor::parse(text, Spelling::Toml, &no_file)
}

const GOOD: &str = r#"
vm = "shop-frontend-1"
service = "shop"
primary_site = "acme"
[[monitor]]
id = "web-load"
point = "unencrypted/web"
interval = "1s"
delivery_ms = 10000
format = "processed"
function = "mean"
[[monitor]]
point = "unencrypted/*"
"#;

#[test]
fn a_descriptor_gets_defaults_and_a_specifier_for_infrastructure() {
    let descriptor = toml(GOOD).unwrap();
    let [web, all, infra] = &descriptor.monitors[..] else {
        panic!("three specifiers")
    };
    assert_eq!((web.interval_ms, web.delivery_ms), (1000, 10_000));
    assert_eq!(web.format, Format::Processed(Function::Mean));
    assert_eq!(
        (all.id.as_str(), all.format, all.window_ms()),
        ("monitor-2", Format::Raw, 0)
    );
    assert_eq!((infra.id.as_str(), infra.delivery_ms), ("infra", 60_000));
    let point = "unencrypted/web".parse().unwrap();
    assert_eq!(descriptor.monitors_of(&point).count(), 2);
}

#[test]
fn every_spelling_of_the_same_descriptor_has_the_same_revision() {
    let json = r#"{"vm":"shop-frontend-1","service":"shop","primary_site":"acme","monitor":[
        {"id":"web-load","point":"unencrypted/web","interval_ms":1000,"delivery_ms":10000,
         "format":"processed","function":"mean"},{"point":"unencrypted/*","format":"raw"}]}"#;
    let xml = format!(
        r#"<vmkpi:monitoring xmlns:vmkpi="{METADATA_NAMESPACE}" vm="shop-frontend-1"
            service="shop" primary_site="acme"><!-- load -->
          <vmkpi:monitor id="web-load" point="unencrypted/web" interval="1000ms" delivery="10s"
            format="processed" function="mean"/>
          <vmkpi:monitor point="unencrypted/*"></vmkpi:monitor>
        </vmkpi:monitoring>"#
    );
    let revision = toml(GOOD).unwrap().revision();
    for (text, spelling) in [(json, Spelling::Json), (&xml, Spelling::Xml)] {
        let other = Descriptor::parse(text, spelling, &no_file).unwrap();
        assert_eq!(other.revision(), revision, "{spelling:?}");
    }
    assert_eq!(revision.len(), 16);
    assert_ne!(
        toml(&GOOD.replace("mean", "max")).unwrap().revision(),
        revision
    );
}

/// Each change to GOOD is refused at that line, naming that key, with that word in the reason.
#[test]
fn what_cannot_be_is_refused_with_line_key_and_reason() {
    for (from, to, line, key, word) in [
        ("vm = \"shop-frontend-1\"", "", None, "vm", "missing"),
        ("\"acme\"", "\"a/b\"", Some(4), "primary_site", "slash"),
        ("\"acme\"", "\"../\"", Some(4), "primary_site", "slash"),
        (
            "\"mean\"",
            "\"avg\"",
            Some(11),
            "monitor[1].function",
            "there are min",
        ),
        (
            "function = \"mean\"",
            "",
            Some(5),
            "monitor[1].function",
            "missing",
        ),
        (
            "\"processed\"",
            "\"raw\"",
            Some(11),
            "monitor[1].function",
            "leave function out",
        ),
        (
            "\"processed\"",
            "\"xml\"",
            Some(10),
            "monitor[1].format",
            "unknown format",
        ),
        (
            "10000",
            "2500",
            Some(9),
            "monitor[1].delivery_ms",
            "multiple",
        ),
        (
            "\"1s\"",
            "\"soon\"",
            Some(8),
            "monitor[1].interval",
            "no duration",
        ),
        (
            "10000",
            "86400001",
            Some(9),
            "monitor[1].delivery_ms",
            "more than a day",
        ),
        (
            "10000",
            "-1",
            Some(9),
            "monitor[1].delivery_ms",
            "no whole number",
        ),
        (
            "10000",
            "\"10000\"",
            Some(9),
            "monitor[1].delivery_ms",
            "not text",
        ),
        (
            "delivery_ms",
            "delivry_ms",
            Some(9),
            "monitor[1].delivry_ms",
            "unknown key; there are id",
        ),
        (
            "\"acme\"",
            "[[[[[[[1]]]]]]]",
            Some(4),
            "primary_site",
            "not a list",
        ),
        (
            "\"unencrypted/web\"",
            "\"encrypted/web\"",
            Some(10),
            "monitor[1].format",
            "encrypted",
        ),
        (
            "\"unencrypted/web\"",
            "\"elsewhere/web\"",
            Some(7),
            "monitor[1].point",
            "data point",
        ),
        (
            "point = \"unencrypted/*\"",
            "id = \"web-load\"\npoint = \"infra/*\"",
            Some(13),
            "monitor[2].id",
            "earlier",
        ),
        (
            "point = \"unencrypted/*\"",
            "point = \"infra/*\"\ninterval_ms = 99",
            Some(14),
            "monitor[2].interval_ms",
            "100 ms",
        ),
        (
            "point = \"unencrypted/*\"",
            "point = \"unencrypted/*\"\nseal = true",
            Some(14),
            "monitor[2].seal",
            "nobody to seal for",
        ),
        (
            "service",
            "primary_key = \"x\"\nservice",
            Some(3),
            "primary_key",
            "PEM",
        ),
        (
            "service",
            "primary_key_file = \"/x\"\nservice",
            Some(3),
            "primary_key_file",
            "/x",
        ),
    ] {
        let errors = toml(&GOOD.replacen(from, to, 1)).unwrap_err();
        let error = &errors[0];
        assert_eq!(
            (error.line, error.key.as_str()),
            (line, key),
            "{to}: {errors:?}"
        );
        assert!(error.to_string().contains(word), "{to}: {error}");
    }
}

#[test]
fn limits_hold() {
    let many = GOOD.to_owned() + &"[[monitor]]\npoint=\"unencrypted/x\"\n".repeat(MAX_MONITORS);
    assert_eq!(toml(&many).unwrap_err()[0].key, "monitor");
    assert!(toml(&"#".repeat(MAX_DESCRIPTOR_BYTES + 1)).is_err());
    assert!(toml(&format!("x = {}", "[".repeat(50_000))).is_err());
    let long = GOOD
        .replace("\"1s\"", "\"1ms\"")
        .replace("10000", "86400000");
    assert!(toml(&long).unwrap_err()[0].message.contains("samples"));
}

#[test]
fn an_rsa_key_under_3072_bits_is_refused() {
    // Public keys made for this test with `openssl genpkey -algorithm RSA`.
    let with = |pem: &str| format!("primary_key = '''{pem}'''\n{GOOD}");
    let short = toml(&with(include_str!(
        "../../schemas/examples/rsa1024.pub.pem"
    )))
    .unwrap_err();
    assert!(short[0].message.contains("1024 bits"), "{short:?}");
    let good = include_str!("../../schemas/examples/rsa3072.pub.pem");
    assert!(toml(&with(good)).unwrap().primary_key.is_some());
    let read = |_: &Path| Ok(good.to_owned());
    let by_file = format!("primary_key_file = \"k.pem\"\n{GOOD}");
    let by_file = Descriptor::parse(&by_file, Spelling::Toml, &read).unwrap();
    assert_eq!(by_file.revision(), toml(&with(good)).unwrap().revision());
}

#[test]
fn metadata_that_is_not_ours_is_refused_with_its_line() {
    for (bad, word) in [
        ("", "no whole"),
        ("<other/>", "unexpected element"),
        ("<monitoring vm='a' host='b'/>", "unknown key"),
        (
            "<monitoring>\n<monitor interval_ms='x'/></monitoring>",
            "whole number",
        ),
        ("<monitoring>text</monitoring>", "only elements"),
        ("<monitoring", "XML"),
        (
            "<!DOCTYPE x [<!ENTITY a 'b'>]><monitoring/>",
            "document type",
        ),
        (
            "<monitoring><primary_key_file>/etc/shadow</primary_key_file></monitoring>",
            "unexpected",
        ),
    ] {
        let errors = Descriptor::parse(bad, Spelling::Xml, &no_file).unwrap_err();
        let told = errors.iter().any(|e| e.to_string().contains(word));
        assert!(told, "{bad}: {errors:?}");
    }
}

#[cfg(feature = "when")]
/// The fenced blocks of `language` in a Markdown text.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None);
    for line in markdown.lines() {
        match (line.trim().strip_prefix("```"), &mut open) {
            (Some(fence), None) => open = Some((fence.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    let wanted = blocks.into_iter().filter(|(fence, _)| fence == language);
    wanted.map(|(_, text)| text).collect()
}

#[cfg(feature = "when")]
#[test]
fn every_descriptor_in_the_documentation_is_valid() {
    let readme = include_str!("../../README.md");
    let guide = include_str!("../../docs/DESCRIPTOR.md");
    let key = |_: &Path| Ok(include_str!("../../schemas/examples/rsa3072.pub.pem").to_owned());
    let tomls: Vec<_> = [readme, guide]
        .iter()
        .flat_map(|t| blocks(t, "toml"))
        .collect();
    assert_eq!(tomls.len(), 2);
    for toml in tomls {
        let parsed = Descriptor::parse(&toml, Spelling::Toml, &key);
        assert!(parsed.is_ok(), "{parsed:?}\n{toml}");
    }
    let (from, to) = (
        guide.find("<monitoring").unwrap(),
        guide.find("</monitoring>").unwrap(),
    );
    let xml = format!("{}</monitoring>", &guide[from..to]);
    let parsed = Descriptor::parse(&xml, Spelling::Xml, &no_file).unwrap();
    assert_eq!(parsed.monitors[0].id.as_str(), "web-load");
    assert!(guide.contains(METADATA_NAMESPACE));
    let ovf = &blocks(guide, "xml")[0];
    let parsed = Descriptor::parse(ovf, Spelling::Ovf, &no_file).unwrap();
    assert!(parsed.monitors[0].when.is_some());
    let (_, table) = guide.split_once("| predicate | true of |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let predicates = rows.filter_map(|row| row.split('`').nth(1));
    for (n, predicate) in predicates.enumerate() {
        assert!(predicate.parse::<When>().is_ok(), "{n}: {predicate}");
    }
}
