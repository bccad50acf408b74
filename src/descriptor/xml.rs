//! The XML spellings: the `<vmkpi:monitoring>` element of a libvirt domain's metadata, and the
//! `<vmkpi:MonitoringSection>` of a virtual system in an OVF envelope (DMTF DSP0243). In both, keys are
//! attributes of the element and of its `<vmkpi:monitor>` and `<vmkpi:confirm>` children, and the key is
//! the text of `<vmkpi:primary_key>`. `schemas/monitoring.xsd` describes them.
//!
//! ```xml
//! <vmkpi:monitoring xmlns:vmkpi="https://vmkpi.org/xmlns/monitoring/v1"
//!                   vm="shop-frontend-1" service="shop" primary_site="acme">
//!   <vmkpi:monitor id="web-load" point="unencrypted/web" interval_ms="1000"
//!                  delivery_ms="10000" format="processed" function="mean"/>
//! </vmkpi:monitoring>
//! ```

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::{NsReader, XmlVersion};

use super::DescriptorError;
use super::tree::{Node, Value, line_at, line_of_part};

/// The XML namespace of the elements, by which libvirt finds its metadata.
pub const METADATA_NAMESPACE: &str = "https://vmkpi.org/xmlns/monitoring/v1";

/// What the namespaces of all its versions begin with.
const NAMESPACE_OF_ANY: &str = "https://vmkpi.org/xmlns/monitoring/";

/// The namespaces of OVF envelopes, versions 1 and 2.
pub const OVF_NAMESPACES: [&str; 2] = [
    "http://schemas.dmtf.org/ovf/envelope/1",
    "http://schemas.dmtf.org/ovf/envelope/2",
];

/// What is around the descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Document {
    /// Nothing: the element is the root.
    Metadata,
    /// An OVF envelope, of which one virtual system has the section.
    Envelope,
}

/// Whose an element is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Vmkpi,
    /// Another version of vmkpi.
    AnotherVersion,
    Ovf,
    /// No namespace; libvirt's users leave it out when they set metadata by hand.
    Nobody,
    Other,
}

/// An element that is open, and what it is to the descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The envelope and what else is in it.
    Around,
    VirtualSystem,
    Monitoring,
    /// `<monitor>` or `<confirm>`: nothing is in it.
    Item,
    PrimaryKey,
    /// What an OVF section has besides, and what was refused already.
    Skipped,
}

struct Reading<'t> {
    text: &'t str,
    document: Document,
    errors: Vec<DescriptorError>,
    open: Vec<Place>,
    /// The keys of the descriptor, once its element was seen, and the element's line.
    found: Option<(usize, Vec<(String, Node)>)>,
    monitors: Vec<Node>,
    confirms: Vec<Node>,
    primary_key: Option<Node>,
}

/// What could be read of a text, and what else is wrong with it.
pub(super) fn read(
    text: &str,
    document: Document,
) -> Result<(Node, Vec<DescriptorError>), Vec<DescriptorError>> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut reading = Reading {
        text,
        document,
        errors: Vec::new(),
        open: Vec::new(),
        found: None,
        monitors: Vec::new(),
        confirms: Vec::new(),
        primary_key: None,
    };
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let line = line_at(text, at);
        match reader.read_resolved_event() {
            Ok((_, Event::Eof)) => return reading.end(),
            Ok((namespace, event)) => {
                let of = whose(&namespace);
                reading.take(event, of, line);
            }
            Err(e) => {
                reading.refuse(line, "", format!("not well-formed XML: {e}"));
                return Err(reading.errors);
            }
        }
    }
}

fn whose(namespace: &ResolveResult<'_>) -> Of {
    match namespace {
        ResolveResult::Bound(Namespace(name)) if *name == METADATA_NAMESPACE => Of::Vmkpi,
        ResolveResult::Bound(Namespace(name)) if OVF_NAMESPACES.contains(name) => Of::Ovf,
        ResolveResult::Bound(Namespace(name)) if name.starts_with(NAMESPACE_OF_ANY) => {
            Of::AnotherVersion
        }
        ResolveResult::Unbound => Of::Nobody,
        _ => Of::Other,
    }
}

impl Reading<'_> {
    fn refuse(&mut self, line: usize, key: &str, message: impl Into<String>) {
        self.errors.push(DescriptorError {
            line: Some(line),
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn take(&mut self, event: Event<'_>, of: Of, line: usize) {
        let place = self.open.last().copied();
        match event {
            Event::Start(element) => {
                let next = self.start(&element, of, place);
                self.open.push(next);
            }
            Event::End(_) => {
                self.open.pop();
            }
            Event::Text(text) => self.characters(&text.xml10_content(), place, line),
            Event::CData(text) => self.characters(&text.xml10_content(), place, line),
            Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                Ok(Some(c)) => self.characters(c.encode_utf8(&mut [0; 4]), place, line),
                _ => self.characters("&", place, line),
            },
            Event::DocType(_) => self.refuse(line, "", "a document type is not read; leave it out"),
            _ => {}
        }
    }

    fn characters(&mut self, text: &str, place: Option<Place>, line: usize) {
        match (place, &mut self.primary_key) {
            (
                Some(Place::PrimaryKey),
                Some(Node {
                    value: Value::Text(key),
                    ..
                }),
            ) => {
                key.push_str(text);
            }
            (Some(Place::Monitoring | Place::Item) | None, _) if !text.trim_ascii().is_empty() => {
                self.refuse(line, "", "only elements and attributes are expected here");
            }
            _ => {}
        }
    }

    fn start(&mut self, element: &BytesStart<'_>, of: Of, place: Option<Place>) -> Place {
        let line = line_of_part(self.text, element.name().0);
        let name = element.local_name().as_ref().to_owned();
        let ours = of == Of::Vmkpi || (of == Of::Nobody && self.document == Document::Metadata);
        match (place, self.document) {
            (None, Document::Metadata) if ours && name == "monitoring" => {
                self.monitoring(element, line)
            }
            (None, Document::Envelope) if of == Of::Ovf && name == "Envelope" => Place::Around,
            (None | Some(Place::VirtualSystem), _) if of == Of::AnotherVersion => {
                let message = format!(
                    "its namespace is another version's than this program's ({METADATA_NAMESPACE}); use the newer vmkpi"
                );
                self.refuse(line, &name, message);
                Place::Skipped
            }
            (None, document) => {
                let root = match document {
                    Document::Metadata => "<vmkpi:monitoring>",
                    Document::Envelope => "an OVF <Envelope>",
                };
                self.refuse(
                    line,
                    &name,
                    format!("unexpected element; the root is {root}"),
                );
                Place::Skipped
            }
            (Some(Place::VirtualSystem), _) if ours && name == "MonitoringSection" => {
                self.monitoring(element, line)
            }
            (Some(Place::Around), _) if of == Of::Ovf && name == "VirtualSystem" => {
                Place::VirtualSystem
            }
            (Some(Place::Around), _) => Place::Around,
            (Some(Place::VirtualSystem | Place::Skipped), _) => Place::Skipped,
            // The section's own Info, and whatever else OVF has in a section.
            (Some(Place::Monitoring), Document::Envelope) if of == Of::Ovf => Place::Skipped,
            (Some(Place::Monitoring), _) if ours => self.child(element, &name, line),
            _ => self.unexpected(&name, line),
        }
    }

    fn unexpected(&mut self, name: &str, line: usize) -> Place {
        let message = "unexpected element; there are <vmkpi:monitor>, <vmkpi:confirm> and \
                       <vmkpi:primary_key>";
        self.refuse(line, name, message);
        Place::Skipped
    }

    fn monitoring(&mut self, element: &BytesStart<'_>, line: usize) -> Place {
        if let Some((first, _)) = self.found {
            let message = format!(
                "a second section (the first is in line {first}); a descriptor is of one VM"
            );
            self.refuse(line, "MonitoringSection", message);
            return Place::Skipped;
        }
        let fields = self.attributes(element, line);
        self.found = Some((line, fields));
        Place::Monitoring
    }

    fn child(&mut self, element: &BytesStart<'_>, name: &str, line: usize) -> Place {
        match name {
            "monitor" | "confirm" => {
                let value = Value::Table(self.attributes(element, line));
                let list = match name {
                    "monitor" => &mut self.monitors,
                    _ => &mut self.confirms,
                };
                list.push(Node { line, value });
                Place::Item
            }
            "primary_key" if self.primary_key.is_none() => {
                let value = Value::Text(String::new());
                self.primary_key = Some(Node { line, value });
                Place::PrimaryKey
            }
            "primary_key" => {
                self.refuse(line, name, "it is given twice");
                Place::Skipped
            }
            _ => self.unexpected(name, line),
        }
    }

    /// The attributes but those of other namespaces, each with its line.
    fn attributes(&mut self, element: &BytesStart<'_>, line: usize) -> Vec<(String, Node)> {
        let mut found = Vec::new();
        for attribute in element.attributes() {
            let read = attribute.map_err(|e| e.to_string()).and_then(|a| {
                let value = a.normalized_value(XmlVersion::Implicit1_0);
                let value = value.map_err(|e| e.to_string())?.into_owned();
                Ok((a.key, value))
            });
            match read {
                Ok((key, _)) if key.prefix().is_some() || key.0 == "xmlns" => {}
                Ok((key, value)) => {
                    let line = line_of_part(self.text, key.0);
                    let value = typed(key.0, value);
                    found.push((key.0.to_owned(), Node { line, value }));
                }
                Err(message) => self.refuse(line, "", format!("not well-formed XML: {message}")),
            }
        }
        found
    }

    fn end(mut self) -> Result<(Node, Vec<DescriptorError>), Vec<DescriptorError>> {
        let Some((line, mut fields)) = self.found.take() else {
            if self.errors.is_empty() {
                let missing = match self.document {
                    Document::Metadata => "no whole <vmkpi:monitoring> element",
                    Document::Envelope => "no <vmkpi:MonitoringSection> in an OVF <VirtualSystem>",
                };
                self.refuse(1, "", missing);
            }
            return Err(self.errors);
        };
        if !self.open.is_empty() {
            self.refuse(line, "", "no whole element: its end is missing");
        }
        for (name, list) in [("monitor", self.monitors), ("confirm", self.confirms)] {
            if let Some(first) = list.first() {
                let line = first.line;
                let value = Value::List(list);
                fields.push((name.to_owned(), Node { line, value }));
            }
        }
        fields.extend(self.primary_key.map(|key| ("primary_key".to_owned(), key)));
        let value = Value::Table(fields);
        Ok((Node { line, value }, self.errors))
    }
}

/// An attribute is text; some keys mean a number or a truth.
fn typed(key: &str, value: String) -> Value {
    match (key, value.as_str()) {
        ("interval_ms" | "delivery_ms", _) => Value::Number(value),
        ("seal", "true" | "1") => Value::Boolean(true),
        ("seal", "false" | "0") => Value::Boolean(false),
        _ => Value::Text(value),
    }
}
