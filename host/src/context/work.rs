//! One operation, from beginning to end: the four phases, each timed. It decides by what the live XML says at this moment,
//! and does nothing where all is right, so it may be done again at any time.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use vmkpi::context::Class;
use vmkpi::descriptor::{Descriptor, Spelling};

use super::images::{Image, ImageError, Images};
use super::machine::{Operation, Outcome, Task};
use super::render::{Words, render};
use super::status::{Ending, Fault, Phase, Times};
use super::templates::{Content, Problem};
use super::{Known, Swap};
use crate::libvirt::drives::{Drive, Drives, Place};
use crate::libvirt::lifecycle::Found;
use crate::libvirt::media::{Hands, Hold, MediaError};

/// Failures after which a tray that libvirt takes for open is not waited for any more: the guest has had a second.
const MISTAKEN_AFTER: u32 = 3;

/// What to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// For which VM.
    pub uuid: Arc<str>,
    /// What.
    pub operation: Operation,
    /// What the class offers.
    pub content: Option<Arc<Content>>,
    /// The descriptors that are known.
    pub known: Arc<Known>,
    /// How a medium is exchanged.
    pub swap: Swap,
    /// Whether a medium is taken from a guest that holds it.
    pub force: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The medium is in the drive, and was not before.
    Changed,
    /// It was there.
    Unchanged,
    /// The image is made.
    Prepared,
    /// The VM has neither a descriptor nor a labelled drive: it is none of ours.
    Spared,
    /// The medium was taken out, or the VM's images removed.
    Removed,
    /// The VM is here: nothing was removed.
    There(Found),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The VM does not run here.
    #[error("the VM does not run here")]
    Gone,
    /// Anything else.
    #[error("{1}")]
    Fault(Fault, String),
}

impl From<MediaError> for Trouble {
    fn from(error: MediaError) -> Self {
        let fault = match error {
            MediaError::Gone => return Self::Gone,
            MediaError::Connection(_) => Fault::Connection,
            MediaError::Busy(_) => Fault::Busy,
            MediaError::Locked(_) => Fault::Locked,
            MediaError::Xml(_) | MediaError::Call(_) => Fault::Libvirt,
        };
        Self::Fault(fault, error.to_string())
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Fault(Fault::Template, problem.to_string())
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Fault(Fault::Image, error.to_string())
    }
}

/// What became of a job.
#[derive(Debug)]
pub struct Report {
    /// The VM.
    pub uuid: Arc<str>,
    /// Its name here, if it was found.
    pub name: Option<String>,
    /// What was to be done.
    pub operation: Operation,
    /// What was.
    pub result: Result<Deed, Trouble>,
    /// How long it took.
    pub times: Times,
    /// What is in the drive, or is prepared.
    pub digest: Option<String>,
    /// The drive.
    pub drive: Option<String>,
    /// The descriptor that it was made with.
    pub descriptor: Option<Arc<Descriptor>>,
}

impl Report {
    /// What it means for what is next.
    pub fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(Deed::There(found)) => Outcome::There(*found),
            Ok(_) => Outcome::Done,
            Err(Trouble::Gone) => Outcome::Gone,
            Err(Trouble::Fault(fault, _)) if fault.is_for_people() => Outcome::Refused,
            Err(Trouble::Fault(..)) => Outcome::Failed,
        }
    }

    /// How it is counted, if it was a recontextualization.
    pub fn ending(&self) -> Option<Ending> {
        if !matches!(self.operation.task, Task::Apply(_)) {
            return None;
        }
        Some(match (&self.result, self.outcome()) {
            (Ok(Deed::Changed), _) => Ending::Changed,
            (Ok(Deed::Unchanged), _) => Ending::Unchanged,
            (Ok(_), _) => return None,
            (_, Outcome::Gone) => Ending::Gone,
            (_, Outcome::Refused) => Ending::Refused,
            _ => Ending::Failed,
        })
    }
}

/// Who does it, with a connection of its own.
#[derive(Debug)]
pub struct Worker {
    uri: String,
    images: Images,
    hands: Option<Hands>,
}

impl Worker {
    /// Nothing is connected yet.
    pub fn new(uri: &str, images: Images) -> Self {
        Self {
            uri: uri.to_owned(),
            images,
            hands: None,
        }
    }

    /// Connects, so that the first job need not.
    pub fn warm_up(&mut self) {
        // Who does a job says why it cannot be.
        self.hands = Hands::open(&self.uri).ok();
    }

    /// Does it.
    pub fn perform(&mut self, job: &Job) -> Report {
        let report = self.attempt(job);
        let lost = matches!(&report.result, Err(Trouble::Fault(Fault::Connection, _)));
        if !lost {
            return report;
        }
        // libvirtd was restarted since the last job, perhaps: once more over a new connection.
        self.hands = None;
        self.attempt(job)
    }

    fn attempt(&mut self, job: &Job) -> Report {
        let mut deed = Doing {
            job,
            images: &self.images,
            times: Times::default(),
            name: None,
            digest: None,
            drive: None,
            descriptor: None,
        };
        let result = match hands(&mut self.hands, &self.uri, &mut deed.times) {
            Ok(hands) => deed.perform(hands),
            Err(error) => Err(error.into()),
        };
        Report {
            uuid: Arc::clone(&job.uuid),
            name: deed.name,
            operation: job.operation.clone(),
            result,
            times: deed.times,
            digest: deed.digest,
            drive: deed.drive,
            descriptor: deed.descriptor,
        }
    }
}

fn hands<'a>(
    kept: &'a mut Option<Hands>,
    uri: &str,
    times: &mut Times,
) -> Result<&'a Hands, MediaError> {
    if !kept.as_ref().is_some_and(Hands::is_alive) {
        let begin = Instant::now();
        *kept = Some(Hands::open(uri)?);
        times.libvirt += begin.elapsed();
        times.phases[Phase::Resolve as usize] += begin.elapsed();
    }
    kept.as_ref()
        .ok_or_else(|| MediaError::Connection("not connected".into()))
}

/// A job that is being done.
struct Doing<'a> {
    job: &'a Job,
    images: &'a Images,
    times: Times,
    name: Option<String>,
    digest: Option<String>,
    drive: Option<String>,
    descriptor: Option<Arc<Descriptor>>,
}

impl Doing<'_> {
    fn perform(&mut self, hands: &Hands) -> Result<Deed, Trouble> {
        match &self.job.operation.task {
            Task::Prepare(class) => self.make_ready(class, hands),
            Task::Apply(class) => self.apply(class, hands),
            Task::Withdraw(class) => self.withdraw(class, hands),
            Task::CleanUp => self.clean_up(hands),
        }
    }

    fn make_ready(&mut self, class: &Class, hands: &Hands) -> Result<Deed, Trouble> {
        let (hold, drives) = self.resolve(hands)?;
        self.describe(&hold, &drives)?;
        if drives.place(class, self.descriptor.is_some()).is_none() {
            return Ok(Deed::Spared);
        }
        self.prepare(class).map(|_| Deed::Prepared)
    }

    fn apply(&mut self, class: &Class, hands: &Hands) -> Result<Deed, Trouble> {
        let (hold, drives) = self.resolve(hands)?;
        self.describe(&hold, &drives)?;
        let Some(place) = drives.place(class, self.descriptor.is_some()) else {
            return Ok(Deed::Spared);
        };
        if let Place::In(drive) | Place::Taken(drive) = place {
            self.drive = Some(drive.target.clone());
        }
        check(class, place)?;
        let image = self.prepare(class)?;
        let changed = self.insert(class, &hold, &drives, place, &image)?;
        self.digest = Some(image.digest);
        // What was in the drive before is nobody's any more. What cannot be removed now is at the next start.
        if let Err(error) = self
            .images
            .keep_only(class, &self.job.uuid, Some(&image.path))
        {
            tracing::warn!(%error, "an image that is not used any more stays");
        }
        Ok(if changed {
            Deed::Changed
        } else {
            Deed::Unchanged
        })
    }

    /// Whether anything had to be changed.
    fn insert(
        &mut self,
        class: &Class,
        hold: &Hold,
        drives: &Drives,
        place: Place<'_>,
        image: &Image,
    ) -> Result<bool, Trouble> {
        let Place::In(drive) = place else {
            return self.attach_new(class, hold, drives, image).map(|()| true);
        };
        if drive.medium.as_deref().map(Path::new) == Some(&*image.path) {
            return Ok(false);
        }
        if self.job.swap == Swap::Device && drive.bus == "scsi" && drive.medium.is_some() {
            self.replace(hold, drive, Some(&image.path))?;
        } else {
            self.exchange(hold, drive, Some(&image.path))?;
        }
        Ok(true)
    }

    /// The medium, or where libvirt will not see that the tray is shut, the drive with it.
    fn exchange(
        &mut self,
        hold: &Hold,
        drive: &Drive,
        medium: Option<&Path>,
    ) -> Result<(), MediaError> {
        let tried = self.job.operation.tries >= MISTAKEN_AFTER;
        match self.change(hold, drive, medium) {
            Err(error) if error.is_mistaken() && tried && drive.bus == "scsi" => {
                self.replace(hold, drive, medium)
            }
            changed => changed,
        }
    }

    /// Another drive of the same name and address, with the new medium.
    fn replace(
        &mut self,
        hold: &Hold,
        drive: &Drive,
        medium: Option<&Path>,
    ) -> Result<(), MediaError> {
        let xml = drive.with(medium)?;
        self.timed(Phase::Detach, |times| {
            times.call(|| hold.detach(drive.xml(), &drive.target))
        })?;
        self.timed(Phase::Attach, |times| times.call(|| hold.attach(&xml)))
    }

    /// Against the guest's will only if the operator says so, and last; twice, as the guest may shut the tray again.
    fn change(
        &mut self,
        hold: &Hold,
        drive: &Drive,
        medium: Option<&Path>,
    ) -> Result<(), MediaError> {
        let xml = drive.with(medium)?;
        let phase = match medium {
            Some(_) => Phase::Attach,
            None => Phase::Detach,
        };
        let tries: &[bool] = match self.job.force {
            true => &[false, true, true],
            false => &[false],
        };
        let mut result = Ok(());
        for force in tries {
            result = self.timed(phase, |times| times.call(|| hold.change(&xml, *force)));
            if !matches!(result, Err(MediaError::Locked(_))) {
                break;
            }
        }
        result
    }

    fn attach_new(
        &mut self,
        class: &Class,
        hold: &Hold,
        drives: &Drives,
        image: &Image,
    ) -> Result<(), Trouble> {
        let full = || {
            let message = "every name from sda to sdz is taken".to_owned();
            Trouble::Fault(Fault::Drive, message)
        };
        let (target, xml) = drives.attach_xml(class, &image.path).ok_or_else(full)?;
        self.drive = Some(target);
        Ok(self.timed(Phase::Attach, |times| times.call(|| hold.attach(&xml)))?)
    }

    fn withdraw(&mut self, class: &Class, hands: &Hands) -> Result<Deed, Trouble> {
        let (hold, drives) = self.resolve(hands)?;
        for drive in drives.cdroms.iter().filter(|drive| drive.holds(class)) {
            self.exchange(&hold, drive, None)?;
        }
        self.images.keep_only(class, &self.job.uuid, None)?;
        Ok(Deed::Removed)
    }

    /// Only of a VM that libvirt says does not run: an event may have come late.
    fn clean_up(&mut self, hands: &Hands) -> Result<Deed, Trouble> {
        match hands.find(&self.job.uuid)? {
            Found::Gone => {
                self.images.remove(&self.job.uuid)?;
                Ok(Deed::Removed)
            }
            found => Ok(Deed::There(found)),
        }
    }

    fn resolve(&mut self, hands: &Hands) -> Result<(Hold, Drives), Trouble> {
        let uuid = &self.job.uuid;
        let (hold, drives) = self.timed(Phase::Resolve, |times| {
            let hold = times.call(|| hands.hold(uuid))?;
            let xml = times.call(|| hold.xml())?;
            Drives::of_running(&xml)?
                .map(|drives| (hold, drives))
                .ok_or(MediaError::Gone)
        })?;
        self.name = Some(drives.name.clone());
        Ok((hold, drives))
    }

    /// The VM's descriptor: that in force, or, of a VM that has just come, what its file or metadata says.
    fn describe(&mut self, hold: &Hold, drives: &Drives) -> Result<(), Trouble> {
        let (known, uuid) = (&self.job.known, &*self.job.uuid);
        let by_name = || {
            let files = &known.by_name;
            files.get(&drives.name).or_else(|| files.get(uuid)).cloned()
        };
        let known = known.in_force.get(uuid).cloned().or_else(by_name);
        self.descriptor = match known {
            Some(known) => Some(known),
            None => self.timed(Phase::Resolve, |times| {
                let metadata = times.call(|| hold.metadata())?;
                Ok::<_, MediaError>(metadata.as_deref().and_then(of_metadata))
            })?,
        };
        Ok(())
    }

    fn prepare(&mut self, class: &Class) -> Result<Image, Trouble> {
        let Some(content) = self.job.content.clone() else {
            let message = format!("class {class} is not offered any more");
            return Err(Trouble::Fault(Fault::Template, message));
        };
        let (descriptor, images) = (self.descriptor.clone(), self.images);
        let (uuid, event) = (&*self.job.uuid, &*self.job.operation.event);
        self.timed(Phase::Prepare, |_| {
            let words = Words {
                descriptor: descriptor.as_deref(),
                uuid,
                event,
            };
            let files = render(&content, &words)?;
            Ok(images.make(class, uuid, &files)?)
        })
    }

    fn timed<T>(&mut self, phase: Phase, work: impl FnOnce(&mut Times) -> T) -> T {
        let begin = Instant::now();
        let result = work(&mut self.times);
        self.times.phases[phase as usize] += begin.elapsed();
        result
    }
}

impl Times {
    fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = call();
        self.libvirt += begin.elapsed();
        result
    }
}

/// A descriptor that is refused is said by who keeps them.
fn of_metadata(text: &str) -> Option<Arc<Descriptor>> {
    let no_files = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let parsed = Descriptor::parse(text, Spelling::Xml, &no_files);
    parsed.ok().map(Arc::new)
}

fn check(class: &Class, place: Place<'_>) -> Result<(), Trouble> {
    let label = class.label();
    match place {
        Place::In(_) | Place::New => Ok(()),
        Place::Taken(drive) => Err(Trouble::Fault(
            Fault::Foreign,
            format!(
                "drive {} has the serial {label}, and a medium in it that is not ours ({}): eject it (virsh change-media --eject)",
                drive.target,
                drive.medium.as_deref().unwrap_or_default()
            ),
        )),
        Place::Nowhere => Err(Trouble::Fault(
            Fault::Drive,
            format!(
                "no CD-ROM drive for class {class}: give the domain one with <serial>{label}</serial>, or a controller \
                 <controller type='scsi' model='virtio-scsi'/> that one can be attached to"
            ),
        )),
    }
}
