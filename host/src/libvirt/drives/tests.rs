//! Which drive is a class's, and what is asked of libvirt.

use super::*;

const UUID: &str = "11111111-2222-4333-8444-555555555555";

fn class(name: &str) -> Class {
    name.parse().unwrap()
}

/// Target, bus, serial and source.
type Described = (&'static str, &'static str, &'static str, &'static str);

/// A domain with these drives, and perhaps a controller.
fn domain(drives: &[(&str, &str, &str, &str)], controller: &str) -> String {
    let mut text = String::from("<domain type='qemu' id='3'><name>a&lt;b</name><devices>");
    text += "<disk type='file' device='disk'><source file='/d'/><target dev='vda' bus='virtio'/><serial>VMKPI_SERVICE</serial></disk>";
    for (target, bus, serial, source) in drives {
        let source = match *source {
            "" => String::new(),
            "left" => "<source startupPolicy='optional' index='2'/>".to_owned(),
            "net" => "<source protocol='nbd'><host name='h'/></source>".to_owned(),
            "block" => "<source dev='/dev/sr0' index='7'/>".to_owned(),
            file => format!(
                "<source file='{file}' index='7'><seclabel model='dac' relabel='no'/></source><backingStore/>"
            ),
        };
        let serial = match *serial {
            "" => String::new(),
            serial => format!("<serial>{serial}</serial>"),
        };
        text += &format!(
            "\n    <disk type='file' device='cdrom'>\n      <driver name='qemu' type='raw'/>{source}\n      \
             <target dev='{target}' bus='{bus}'/>\n      <readonly/>{serial}<alias name='a&amp;b'/>\n    </disk>"
        );
    }
    text + controller + "</devices></domain>"
}

const VIRTIO_SCSI: &str = "<controller type='scsi' index='0' model='virtio-scsi'/>";

fn own(name: &str) -> String {
    format!("/elsewhere/vmkpi-{name}-{UUID}-00112233445566778899aabbccddeeff.iso")
}

/// Where the infrastructure's medium goes in a domain with these drives.
fn place(drives: &[(&str, &str, &str, &str)], controller: &str, ours: bool) -> String {
    let drives = Drives::read(&domain(drives, controller)).unwrap();
    match drives.place(&class("infrastructure"), ours) {
        Some(Place::In(drive)) => format!("in {}", drive.target),
        Some(Place::Taken(drive)) => format!("taken {}", drive.target),
        Some(Place::New) => "new".into(),
        Some(Place::Nowhere) => "nowhere".into(),
        None => "not ours".into(),
    }
}

#[test]
fn the_labelled_drive_is_the_classs_then_the_one_with_its_image_then_the_only_empty_one() {
    let [ours, other]: [&'static str; 2] =
        [own("infrastructure"), own("service")].map(|s| &*s.leak());
    let label = "VMKPI_INFRASTRUCTURE";
    let cases: [(&[Described], &str); 15] = [
        (
            &[("sda", "scsi", "", ""), ("sdb", "scsi", label, "")],
            "in sdb",
        ),
        (&[("sda", "scsi", label, ours)], "in sda"),
        (&[("sda", "scsi", label, "/install.iso")], "taken sda"),
        (&[("sda", "scsi", label, "block")], "taken sda"),
        (&[("sda", "scsi", label, "left")], "in sda"),
        (&[("sda", "scsi", label, "net")], "taken sda"),
        (&[("sda", "scsi", label, other)], "taken sda"),
        (
            &[("sda", "scsi", "", "/x.iso"), ("hdc", "ide", "", ours)],
            "in hdc",
        ),
        (&[("hdc", "ide", "", "")], "in hdc"),
        (
            &[("sda", "scsi", "", ""), ("sdb", "scsi", "", "")],
            "nowhere",
        ),
        (&[("sda", "scsi", "", "/install.iso")], "nowhere"),
        (&[("sda", "scsi", "", "block")], "nowhere"),
        (&[("sda", "scsi", "VMKPI_SERVICE", "")], "nowhere"),
        (&[("sda", "scsi", "", other)], "nowhere"),
        (&[], "nowhere"),
    ];
    for (drives, due) in cases {
        assert_eq!(place(drives, "", true), due, "{drives:?}");
        let due = due.replace("nowhere", "new");
        assert_eq!(place(drives, VIRTIO_SCSI, true), due, "{drives:?}");
    }
    assert_eq!(
        place(&[("hdc", "ide", "", "")], VIRTIO_SCSI, false),
        "not ours"
    );
    assert_eq!(place(&[("sda", "scsi", label, "")], "", false), "in sda");
    assert_eq!(place(&[("sda", "scsi", "", ours)], "", false), "in sda");
    let lsi = "<controller type='scsi' model='lsilogic'/><controller type='usb' model='virtio'/>";
    assert_eq!(place(&[], lsi, true), "nowhere");
}

#[test]
fn a_change_of_medium_changes_the_medium_and_nothing_else() {
    let text = domain(&[("sda", "scsi", "S&amp;1", "/old.iso")], "");
    let drives = Drives::read(&text).unwrap();
    assert_eq!((drives.name.as_str(), drives.running), ("a<b", true));
    let drive = &drives.cdroms[0];
    assert_eq!(drive.serial.as_deref(), Some("S&1"));
    let xml = drive.with(Some(Path::new("/new & <b>.iso"))).unwrap();
    let again = Drives::read(&format!("<domain><devices>{xml}</devices></domain>")).unwrap();
    assert_eq!(again.cdroms[0].medium.as_deref(), Some("/new & <b>.iso"));
    assert_eq!(again.cdroms[0].serial, drive.serial);
    for kept in [
        "<target dev='sda' bus='scsi'/>",
        "<readonly/>",
        "<alias name='a&amp;b'/>",
        "device=\"cdrom\"",
    ] {
        let spelled = kept.replace('\'', "\"");
        assert!(
            xml.contains(kept) || xml.contains(&spelled),
            "{kept}: {xml}"
        );
    }
    assert!(xml.contains("startupPolicy=\"optional\""), "{xml}");
    assert!(
        !xml.contains("old") && !xml.contains("seclabel") && !xml.contains("backingStore"),
        "{xml}"
    );
    let empty = drive.with(None).unwrap();
    assert!(!empty.contains("<source"), "{empty}");
    let empty = Drives::read(&format!(
        "<domain id='1'><devices>{empty}</devices></domain>"
    ))
    .unwrap();
    assert_eq!(empty.cdroms[0].medium, None);
}

#[test]
fn a_new_drive_has_the_label_and_a_name_that_is_free() {
    let drives = [("sda", "scsi", "", "/x"), ("sdc", "scsi", "", "/y")];
    let drives = Drives::read(&domain(&drives, VIRTIO_SCSI)).unwrap();
    let (_, xml) = drives
        .attach_xml(&class("service"), Path::new("/a'b.iso"))
        .unwrap();
    let again = Drives::read(&format!("<domain id='1'><devices>{xml}</devices></domain>")).unwrap();
    let drive = &again.cdroms[0];
    assert_eq!((drive.target.as_str(), drive.bus.as_str()), ("sdb", "scsi"));
    assert_eq!(drive.serial.as_deref(), Some("VMKPI_SERVICE"));
    assert_eq!(drive.medium.as_deref(), Some("/a'b.iso"));
}

#[test]
fn a_domain_that_is_off_has_no_drives_that_count() {
    let text = domain(&[], "").replace(" id='3'", "");
    assert!(!Drives::read(&text).unwrap().running);
    assert!(
        Drives::read("<domain><devices>").is_ok_and(|d| !d.running)
            || Drives::read("<domain><a></domain>").is_err()
    );
    assert!(Drives::read(&"x".repeat(MAX_XML_BYTES + 1)).is_err());
}
