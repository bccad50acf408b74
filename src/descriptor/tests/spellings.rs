//! Whatever a descriptor says, it says in every spelling; and what is wrong is told in each alike.

use proptest::prelude::*;

use super::*;

/// The same mistakes in every spelling: each is told, in the order of the text, with its line.
#[test]
fn every_error_is_told_at_once_with_its_line() {
    let toml = "vm = 'a/b'\n\n[[monitor]]\npoint = 'x'\nfunction = 'y'\nhost = 'z'\n[[monitor]]\n";
    let json = "{\"vm\": \"a/b\",\n\n\"monitor\": [{\n\"point\": \"x\",\n\"function\": \"y\",\n\
                \"host\": \"z\"},\n{}]}";
    let xml = "<monitoring vm='a/b'>\n\n<monitor\npoint='x'\nfunction='y'\nhost='z'/>\n<monitor/>\
               \n</monitoring>";
    let section = xml
        .replacen("<monitoring ", "", 1)
        .replace("</monitoring", "</v:MonitoringSection")
        .replace("<monitor", "<v:monitor");
    let ovf = format!(
        "<Envelope xmlns='{}' xmlns:v='{METADATA_NAMESPACE}'><VirtualSystem><v:MonitoringSection \
         {section}</VirtualSystem></Envelope>",
        OVF_NAMESPACES[1],
    );
    let spellings = [
        (Spelling::Toml, toml),
        (Spelling::Json, json),
        (Spelling::Xml, xml),
        (Spelling::Ovf, &ovf),
    ];
    for (spelling, text) in spellings {
        let errors = Descriptor::parse(text, spelling, &no_file).unwrap_err();
        let told: Vec<_> = errors.iter().map(|e| (e.line, e.key.as_str())).collect();
        let expected = [
            (None, "primary_site"),
            (Some(1), "vm"),
            (Some(4), "monitor[1].point"),
            (Some(5), "monitor[1].function"),
            (Some(6), "monitor[1].host"),
            (Some(7), "monitor[2].point"),
        ];
        assert_eq!(told, expected, "{spelling:?}: {errors:?}");
    }
}

#[test]
fn what_is_no_text_of_its_spelling_is_refused_with_its_line() {
    for (spelling, text, line, word) in [
        (Spelling::Toml, "vm = \"a\"\nx = \n= 1\n", 2, "not TOML"),
        (Spelling::Toml, "vm = 'a'\nvm = 'b'\n", 2, "duplicate key"),
        (Spelling::Json, "{\"vm\": \"a\",\n}", 2, "not JSON"),
        (
            Spelling::Json,
            "{\"vm\": \"a\",\n\"vm\": \"b\"}",
            2,
            "twice",
        ),
        (Spelling::Json, "[]", 1, "a table of keys"),
        (
            Spelling::Xml,
            "<monitoring>\n<a></b></monitoring>",
            2,
            "XML",
        ),
        (
            Spelling::Xml,
            "<monitoring\nvm='a' primary_site='s' primary_key_file='/etc/shadow'/>",
            2,
            "<vmkpi:primary_key>",
        ),
        (
            Spelling::Ovf,
            "<monitoring vm='a' primary_site='s'/>",
            1,
            "OVF <Envelope>",
        ),
    ] {
        let errors = Descriptor::parse(text, spelling, &no_file).unwrap_err();
        let mut told = errors.iter();
        let found = told.any(|e| e.line == Some(line) && e.message.contains(word));
        assert!(found, "{text}: {errors:?}");
    }
}

#[test]
fn an_envelope_has_one_section_and_anything_else_of_ovf() {
    let good = toml(GOOD).unwrap().write(Spelling::Ovf);
    let read = |text: &str| Descriptor::parse(text, Spelling::Ovf, &no_file);
    let more = good
        .replace(
            "<ovf:References/>",
            "<ovf:References><ovf:File ovf:href='a.vmdk'/></ovf:References>\n\
             <ovf:DiskSection><ovf:Info>d</ovf:Info></ovf:DiskSection>",
        )
        .replace(
            "    <vmkpi:M",
            "    <ovf:ProductSection><ovf:Info/><x:y xmlns:x='z'>text</x:y></ovf:ProductSection>\n\
             <vmkpi:M",
        )
        .replace(
            "<ovf:VirtualSystem ",
            "<ovf:VirtualSystemCollection><ovf:VirtualSystem ",
        )
        .replace(
            "</ovf:VirtualSystem>",
            "</ovf:VirtualSystem></ovf:VirtualSystemCollection>",
        )
        .replace("envelope/1", "envelope/2");
    assert_eq!(read(&more), toml(GOOD));
    let from = good.find("    <vmkpi:M").unwrap();
    let to = good.find("  </ovf:VirtualS").unwrap();
    let twice = format!("{}{}{}", &good[..to], &good[from..to], &good[to..]);
    let errors = read(&twice).unwrap_err();
    assert!(errors[0].message.contains("of one VM"), "{errors:?}");
    assert!(errors[0].line > Some(8), "{errors:?}");
    let none = format!("{}{}", &good[..from], &good[to..]);
    let message = &read(&none).unwrap_err()[0].message;
    assert!(
        message.contains("no <vmkpi:MonitoringSection>"),
        "{message}"
    );
    let other = good.replace(METADATA_NAMESPACE, "urn:other");
    assert!(
        read(&other).is_err(),
        "another namespace's section is not ours"
    );
}

/// RFC 8032, section 7.1, test 1.
const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

#[test]
fn consumers_that_confirm_have_a_name_and_an_ed25519_key() {
    let with = |keys: &str| toml(&format!("{GOOD}\n[[confirm]]\n{keys}\n"));
    let good = with(&format!("name = 'collect'\nkey = '{ED25519}'")).unwrap();
    assert_eq!(good.confirm[0].name.as_str(), "collect");
    assert_eq!(good.confirm[0].key[..2], [0xd7, 0x5a]);
    assert_ne!(good.revision(), toml(GOOD).unwrap().revision());
    let (ones, zeros) = ("/".repeat(42) + "8=", "A".repeat(43) + "=");
    let one = format!("name = 'a'\nkey = '{ED25519}'");
    for (keys, key, word) in [
        ("name = 'a'".to_owned(), "key", "missing"),
        (format!("key = '{ED25519}'"), "name", "missing"),
        ("name = 'a'\nkey = 'AAAA'".to_owned(), "key", "3 bytes"),
        ("name = 'a'\nkey = '?'".to_owned(), "key", "not base64"),
        (format!("name = 'a'\nkey = '{ones}'"), "key", "no Ed25519"),
        (format!("name = 'a'\nkey = '{zeros}'"), "key", "small order"),
        (format!("{one}\nhost = 1"), "host", "name, key"),
        (format!("{one}\n[[confirm]]\n{one}"), "name", "earlier"),
    ] {
        let errors = with(&keys).unwrap_err();
        let told = errors[0].key.ends_with(key) && errors[0].message.contains(word);
        assert!(told && errors[0].line >= Some(14), "{keys}: {errors:?}");
    }
}

#[cfg(feature = "when")]
#[test]
fn a_predicate_that_can_never_hold_is_refused() {
    let with = |point: &str, more: &str| {
        toml(&format!(
            "vm='v'\nprimary_site='s'\n[[monitor]]\npoint='{point}'\n{more}\n"
        ))
    };
    let mean = "function = 'mean'\ninterval_ms = 1000";
    let of_a_rate = format!("when = 'requests_per_second > 1.0'\n{mean}");
    let monitor = with("unencrypted/web", &of_a_rate)
        .unwrap()
        .monitors
        .remove(0);
    assert_eq!(monitor.when.unwrap().as_str(), "requests_per_second > 1.0");
    let of_a_counter = format!("when = 'requests_total > 1'\n{mean}");
    for (point, more, word) in [
        ("encrypted/web", "when = 'users > 1'", "encrypted"),
        (
            "unencrypted/web",
            "when = 'users'",
            "neither true nor false",
        ),
        (
            "unencrypted/web",
            &of_a_counter,
            "ask for requests_per_second",
        ),
    ] {
        let errors = with(point, more).unwrap_err();
        assert_eq!((errors.len(), errors[0].line), (1, Some(5)), "{errors:?}");
        assert_eq!(errors[0].key, "monitor[1].when");
        assert!(errors[0].message.contains(word), "{errors:?}");
    }
    assert!(with("unencrypted/web", "when = 'requests_total > 1'").is_ok());
}

#[cfg(not(feature = "when"))]
#[test]
fn without_the_interpreter_a_predicate_is_refused() {
    let errors = toml(&format!("{GOOD}\nwhen = 'a > 1'\n")).unwrap_err();
    assert!(errors[0].message.contains("built without"), "{errors:?}");
}

fn label() -> impl Strategy<Value = String> {
    // What other systems' quoting trips over, beside any other text.
    prop_oneof![
        "[a-z]{1,8}",
        Just("a'b\"c\\d<e>&amp;]]>\u{2028} ".to_owned()),
        "[^/\\p{Cc}]{1,20}",
    ]
    .prop_filter("a name", |text| text.parse::<Label>().is_ok())
}

fn predicate() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![
        Just(None),
        Just(Some("a > 1 && b == \"x<'y']]>\"\n\t// \u{2028}&amp;\\"))
    ]
}

prop_compose! {
    fn monitor()(
        kind in 0..3_usize,
        name in "[a-z*]{1,6}",
        interval in prop_oneof![Just(0), Just(100), Just(1000)],
        windows in 0..5_u64,
        function in prop::sample::select(&Function::ALL[..]),
        processed: bool,
        when in predicate(),
    ) -> String {
        let (area, delivery) = (["unencrypted", "encrypted", "infra"][kind], windows * 1000);
        let mut text = format!(
            "point = '{area}/{name}'\ninterval_ms = {interval}\ndelivery_ms = {delivery}\n"
        );
        if processed && kind != 1 && interval + delivery > 0 {
            text += &format!("format = 'processed'\nfunction = '{}'\n", function.as_str());
        }
        if let Some(when) = when.filter(|_| kind != 1 && cfg!(feature = "when")) {
            text += &format!("when = {}\n", serde_json::to_string(when).unwrap());
        }
        text
    }
}

prop_compose! {
    fn descriptor()(
        (vm, service, site) in (label(), prop::option::of(label()), label()),
        monitors in prop::collection::vec((prop::option::of(label()), monitor()), 0..5),
        consumers in prop::collection::btree_set(label(), 0..3),
        with_key: bool,
    ) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let mut text = format!("vm = {}\nprimary_site = {}\n", quoted(&vm), quoted(&site));
        if let Some(service) = service {
            text += &format!("service = {}\n", quoted(&service));
        }
        if with_key {
            let pem = include_str!("../../../schemas/examples/rsa3072.pub.pem");
            text += &format!("primary_key = '''{pem}'''\n");
        }
        for consumer in consumers {
            text += &format!("[[confirm]]\nname = {}\nkey = '{ED25519}'\n", quoted(&consumer));
        }
        let mut ids = std::collections::BTreeSet::new();
        for (id, monitor) in monitors {
            text += &format!("[[monitor]]\n{monitor}");
            if let Some(id) = id.filter(|id| ids.insert(id.clone())) {
                text += &format!("id = {}\n", quoted(&id));
            }
        }
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_descriptor_is_the_same_in_each_spelling(text in descriptor()) {
        let descriptor = toml(&text);
        prop_assert!(descriptor.is_ok(), "{descriptor:?}\n{text}");
        let descriptor = descriptor.unwrap();
        for spelling in Spelling::ALL {
            let written = descriptor.write(spelling);
            let read = Descriptor::parse(&written, spelling, &no_file);
            prop_assert_eq!(read.as_ref(), Ok(&descriptor), "{:?}\n{}", spelling, written);
            prop_assert_eq!(read.unwrap().revision(), descriptor.revision());
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in ".{0,200}", at in 0..4_usize) {
        let _ = Descriptor::parse(&text, Spelling::ALL[at], &no_file);
    }
}

#[test]
fn as_many_specifiers_as_there_may_be_are_written_and_read() {
    let many = "[[monitor]]\npoint = 'unencrypted/x'\n".repeat(MAX_MONITORS);
    let full = toml(&format!("vm = 'v'\nprimary_site = 's'\n{many}")).unwrap();
    assert_eq!(full.monitors.len(), MAX_MONITORS + 1, "with infra/*");
    for spelling in Spelling::ALL {
        let read = Descriptor::parse(&full.write(spelling), spelling, &no_file);
        assert_eq!(read.as_ref(), Ok(&full), "{spelling:?}");
    }
}
