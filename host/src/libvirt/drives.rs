//! The CD-ROM drives in a domain's live XML: which there are, which is a class's, and the XML that changes one. Pure.
//!
//! ```text
//! 1. the drive whose <serial> is the class's label       ─┐
//! 2. the drive that holds an image of the class's own     ├─ what is in it is ours, or nothing is
//! 3. the only drive, if it is empty                       ─┘
//! 4. none: one is attached, where there is a virtio-scsi controller
//! ```
//! A medium that is not ours is never taken out.

use std::collections::BTreeSet;
use std::path::Path;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};
use vmkpi::context::Class;

use super::xml::{MAX_XML_BYTES, XmlError};
use crate::context::images;

/// What a source has that is there, one or another by the kind of the disk.
const NAMES: [&str; 8] = [
    "file", "dev", "volume", "name", "dir", "protocol", "path", "type",
];

/// A CD-ROM drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drive {
    /// What the domain calls it: `sda`.
    pub target: String,
    /// What it is on: `scsi`, `sata`, `ide`.
    pub bus: String,
    /// Its serial number.
    pub serial: Option<String>,
    /// What is in it: a file, or whatever else libvirt names; `None` when it is empty.
    pub medium: Option<String>,
    /// Its whole element.
    xml: String,
}

/// What the live XML of a domain says of its drives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drives {
    /// Whether the domain has a process.
    pub running: bool,
    /// Its name on this host.
    pub name: String,
    /// The CD-ROM drives.
    pub cdroms: Vec<Drive>,
    /// Whether it has a controller that a SCSI drive can be attached to.
    pub virtio_scsi: bool,
    /// What its disks are called, of every kind.
    targets: BTreeSet<String>,
}

/// Where a class's medium belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In this drive, which is empty or holds what is ours.
    In(&'a Drive),
    /// In this drive, which holds something else.
    Taken(&'a Drive),
    /// In a drive that is to be attached.
    New,
    /// Nowhere: there is no drive for it, and none can be attached.
    Nowhere,
}

impl Drives {
    /// Reads the live XML of a domain.
    ///
    /// # Errors
    /// The text is too long or not well-formed.
    pub fn read(text: &str) -> Result<Self, XmlError> {
        if text.len() > MAX_XML_BYTES {
            return Err(XmlError::TooLarge(text.len()));
        }
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        let (mut found, mut path, mut disk) = (Self::default(), Vec::new(), None);
        loop {
            let begin = position(&reader);
            match reader.read_event()? {
                Event::Start(element) => {
                    path.push(element.name().as_ref().to_owned());
                    found.start(&element, &path, begin, &mut disk);
                }
                Event::Text(said) => found.text(&path, &said, &mut disk),
                Event::GeneralRef(entity) => {
                    let known = quick_xml::escape::resolve_predefined_entity(&entity);
                    found.text(&path, known.unwrap_or_default(), &mut disk);
                }
                Event::End(_) => {
                    if is(&path, &["domain", "devices", "disk"]) {
                        let whole = text.get(..position(&reader)).unwrap_or_default();
                        found.end(disk.take(), whole);
                    }
                    path.pop();
                }
                Event::Eof => return Ok(found),
                _ => {}
            }
        }
    }

    /// Reads the XML of a domain; `None` if it does not run.
    ///
    /// # Errors
    /// Those of [`Drives::read`].
    pub fn of_running(text: &str) -> Result<Option<Self>, XmlError> {
        Self::read(text).map(|drives| Some(drives).filter(|drives| drives.running))
    }

    fn start(
        &mut self,
        element: &BytesStart<'_>,
        path: &[String],
        begin: usize,
        disk: &mut Option<Disk>,
    ) {
        let of = |name| attribute(element, name);
        if is(path, &["domain"]) {
            self.running = of("id").is_some();
        } else if is(path, &["domain", "devices", "disk"]) {
            *disk = Some(Disk {
                cdrom: of("device").as_deref() == Some("cdrom"),
                begin,
                drive: Drive::default(),
            });
        } else if is(path, &["domain", "devices", "controller"]) {
            // virtio-transitional and the like too: they take the same drives.
            let virtio = of("model").is_some_and(|model| model.starts_with("virtio"));
            self.virtio_scsi |= of("type").as_deref() == Some("scsi") && virtio;
        }
        let Some(disk) = disk else { return };
        if is(path, &["domain", "devices", "disk", "target"]) {
            disk.drive.target = of("dev").unwrap_or_default();
            disk.drive.bus = of("bus").unwrap_or_default();
        } else if is(path, &["domain", "devices", "disk", "source"]) {
            // Without any of them it is what libvirt leaves of a medium that was taken out.
            disk.drive.medium = NAMES.into_iter().find_map(of);
        }
    }

    fn text(&mut self, path: &[String], text: &str, disk: &mut Option<Disk>) {
        if is(path, &["domain", "name"]) {
            self.name.push_str(text);
        } else if is(path, &["domain", "devices", "disk", "serial"])
            && let Some(disk) = disk
        {
            disk.drive.serial.get_or_insert_default().push_str(text);
        }
    }

    fn end(&mut self, disk: Option<Disk>, text: &str) {
        let Some(Disk {
            cdrom,
            begin,
            mut drive,
        }) = disk
        else {
            return;
        };
        self.targets.insert(drive.target.clone());
        if cdrom {
            drive.xml = text.get(begin..).unwrap_or_default().to_owned();
            self.cdroms.push(drive);
        }
    }

    /// Whether it has a CD-ROM drive of that name.
    pub fn has_cdrom(&self, target: &str) -> bool {
        self.cdroms.iter().any(|drive| drive.target == target)
    }

    /// Where a class's medium belongs; `ours` is whether a drive that is not labelled may be taken.
    pub fn place(&self, class: &Class, ours: bool) -> Option<Place<'_>> {
        let label = class.label();
        let mut cdroms = self.cdroms.iter();
        if let Some(drive) = cdroms.find(|drive| drive.serial.as_deref() == Some(&label)) {
            return Some(match drive.is_free_for(class) {
                true => Place::In(drive),
                false => Place::Taken(drive),
            });
        }
        let mut cdroms = self.cdroms.iter();
        if let Some(drive) = cdroms.find(|drive| drive.holds(class)) {
            return Some(Place::In(drive));
        }
        if !ours {
            return None;
        }
        Some(match &self.cdroms[..] {
            [only] if only.is_anybodys() => Place::In(only),
            _ if self.virtio_scsi => Place::New,
            _ => Place::Nowhere,
        })
    }

    /// A new drive for the class, with a medium: what it is called, and its XML. `None` when every name is taken.
    pub fn attach_xml(&self, class: &Class, image: &Path) -> Option<(String, String)> {
        let letters = (b'a'..=b'z').map(|letter| format!("sd{}", char::from(letter)));
        let target = letters
            .into_iter()
            .find(|name| !self.targets.contains(name))?;
        let xml = format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
             <source file='{}' startupPolicy='optional'/><target dev='{target}' bus='scsi'/><readonly/>\
             <serial>{}</serial></disk>",
            quick_xml::escape::escape(image.to_string_lossy()),
            class.label()
        );
        Some((target, xml))
    }
}

impl Drive {
    /// Whether it holds an image of the class's.
    pub fn holds(&self, class: &Class) -> bool {
        let medium = self.medium.as_deref().map(Path::new);
        medium.is_some_and(|path| images::is_of(path, class))
    }

    fn is_free_for(&self, class: &Class) -> bool {
        self.medium.is_none() || self.holds(class)
    }

    /// Empty, and no other class's.
    fn is_anybodys(&self) -> bool {
        let labelled = self.serial.as_deref().and_then(Class::of_label).is_some();
        self.medium.is_none() && !labelled
    }

    /// Its element with another medium, or none, and otherwise as it is: libvirt changes a medium only where nothing
    /// else is different.
    ///
    /// # Errors
    /// It is not well-formed.
    pub fn with(&self, image: Option<&Path>) -> Result<String, XmlError> {
        let mut reader = Reader::from_str(&self.xml);
        let mut writer = Writer::new(Vec::new());
        // quick-xml writes to memory, which takes all that is written.
        let mut put = |event: Event<'_>| drop(writer.write_event(event));
        let (mut depth, mut skipped) = (0_usize, None);
        loop {
            let event = reader.read_event()?;
            match &event {
                Event::Eof => break,
                Event::Start(element) => {
                    depth += 1;
                    if depth == 1 {
                        put(Event::Start(of_file(element)));
                        image.into_iter().for_each(|image| put(source(image)));
                        continue;
                    }
                    if depth == 2 && skipped.is_none() && is_of_medium(element) {
                        skipped = Some(depth);
                    }
                }
                Event::End(_) => {
                    depth = depth.saturating_sub(1);
                    if skipped.take_if(|at| *at == depth + 1).is_some() {
                        continue;
                    }
                }
                Event::Empty(element) if depth == 1 && is_of_medium(element) => continue,
                _ => {}
            }
            if skipped.is_none() {
                put(event);
            }
        }
        Ok(String::from_utf8_lossy(&writer.into_inner()).into_owned())
    }

    /// Its element as it is.
    pub fn xml(&self) -> &str {
        &self.xml
    }
}

/// A disk whose element is open.
struct Disk {
    cdrom: bool,
    begin: usize,
    drive: Drive,
}

fn of_file(disk: &BytesStart<'_>) -> BytesStart<'static> {
    let mut file = BytesStart::new("disk");
    for attribute in disk.attributes().flatten() {
        if attribute.key.as_ref() != "type" {
            file.push_attribute(attribute);
        }
    }
    file.push_attribute(("type", "file"));
    file.into_owned()
}

fn source(image: &Path) -> Event<'static> {
    let mut source = BytesStart::new("source");
    source.push_attribute(("file", &*image.to_string_lossy()));
    source.push_attribute(("startupPolicy", "optional"));
    Event::Empty(source.into_owned())
}

fn is_of_medium(element: &BytesStart<'_>) -> bool {
    matches!(
        element.name().as_ref(),
        "source" | "backingStore" | "mirror"
    )
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn is(path: &[String], names: &[&str]) -> bool {
    path.len() == names.len() && path.iter().zip(names).all(|(a, b)| a == b)
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    let value = quick_xml::escape::unescape(&attribute.value).ok()?;
    Some(value.into_owned())
}

#[cfg(test)]
mod tests;
