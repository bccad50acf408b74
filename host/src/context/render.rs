//! From what a class offers to the files of one VM. Pure.

use std::collections::BTreeMap;
use std::io::Write;

use vmkpi::context::{ENDPOINT_FILE, MAX_IMAGE_BYTES};
use vmkpi::descriptor::Descriptor;
use vmkpi::link::LinkUrl;

use super::templates::{Content, Problem, in_template};

/// The files of a layer, by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What templates may say of a VM. The host's own names, the domain's here too, are not among it.
#[derive(Clone, Debug, Default)]
pub struct Words<'a> {
    /// The VM's descriptor, if it has one.
    pub descriptor: Option<&'a Descriptor>,
    /// Its UUID.
    pub uuid: &'a str,
    /// What has happened: started, migrated, restored, found, or the operator's word.
    pub event: &'a str,
}

impl Words<'_> {
    fn spoken(&self) -> BTreeMap<&'static str, String> {
        let mut words = BTreeMap::from([
            ("uuid", self.uuid.to_owned()),
            ("event", self.event.to_owned()),
        ]);
        if let Some(descriptor) = self.descriptor {
            words.insert("vm", descriptor.vm.to_string());
            words.insert("primary_site", descriptor.primary_site.to_string());
            if let Some(service) = &descriptor.service {
                words.insert("service", service.to_string());
            }
        }
        words
    }
}

/// The files of a VM's layer.
///
/// # Errors
/// A template says what is not known of the VM or does too much, it becomes too large, or the endpoint is none that a
/// context may name.
pub fn render(content: &Content, words: &Words<'_>) -> Result<Files, Problem> {
    let mut files = content.plain.clone();
    let mut left = MAX_IMAGE_BYTES;
    for file in files.values() {
        left = left.saturating_sub(file.len() as u64);
    }
    let words = words.spoken();
    for (path, name) in &content.made {
        let fail = |error: minijinja::Error| in_template(&content.folder, name, &error);
        let template = content.environment.get_template(name).map_err(fail)?;
        let mut out = Bounded {
            bytes: Vec::new(),
            left,
        };
        template
            .render_captured_to(&words, &mut out)
            .map_err(fail)?;
        left = out.left;
        files.insert(path.clone(), out.bytes);
    }
    endpoint(content, &files)?;
    Ok(files)
}

/// The link would be taken there: nothing that a guest has to refuse is offered.
fn endpoint(content: &Content, files: &Files) -> Result<(), Problem> {
    let Some(bytes) = files.get(ENDPOINT_FILE) else {
        return Ok(());
    };
    let place = content.folder.join(ENDPOINT_FILE);
    let refuse = |message: String| Err(Problem::new(place.display().to_string(), message));
    let text = String::from_utf8_lossy(bytes);
    match text.trim().parse::<LinkUrl>() {
        Ok(url) if url.allowed_in_context() => Ok(()),
        Ok(url) => refuse(format!(
            "{url} may not be named by a context: write virtio-serial:org.vmkpi.NAME, vsock:2:PORT or tls:HOST:PORT"
        )),
        Err(error) => refuse(error.to_string()),
    }
}

/// Takes so many bytes, and no more.
struct Bounded {
    bytes: Vec<u8>,
    left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            let message = format!("the layer has over {MAX_IMAGE_BYTES} bytes");
            return Err(std::io::Error::other(message));
        };
        self.left = left;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
