//! Who does operations: threads with a connection each, started as they are needed. A call to libvirt that does not return
//! cannot be taken back: its thread is left alone until it does. How many there may be is bounded; beyond, operations wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Input;
use super::images::Images;
use super::status::{Fault, Times};
use super::work::{Job, Report, Trouble, Worker};

/// The most threads; each that hangs holds one of libvirtd's own (20 by default), as the statistics' late calls do.
const MAX_WORKERS: usize = 8;

/// Threads that are there from the start, connected.
const READY: usize = 2;

/// The threads.
#[derive(Debug)]
pub(super) struct Pool {
    uri: String,
    images: Images,
    inputs: SyncSender<Input>,
    workers: Vec<SyncSender<Job>>,
    idle: Vec<usize>,
}

impl Pool {
    /// Starts the first threads.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn new(uri: &str, images: Images, inputs: SyncSender<Input>) -> std::io::Result<Self> {
        let mut pool = Self {
            uri: uri.to_owned(),
            images,
            inputs,
            workers: Vec::new(),
            idle: Vec::new(),
        };
        (0..READY).try_for_each(|_| pool.hire())?;
        Ok(pool)
    }

    /// Whether somebody can do something now.
    pub fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.workers.len() < MAX_WORKERS
    }

    /// Has it done; by whom.
    pub fn give(&mut self, job: Job) -> Option<usize> {
        if self.idle.is_empty()
            && let Err(error) = self.hire()
        {
            tracing::error!(%error, "no thread for an operation");
        }
        let worker = self.idle.pop()?;
        self.workers[worker].try_send(job).ok()?;
        Some(worker)
    }

    /// A thread is done.
    pub fn is_idle(&mut self, worker: usize) {
        self.idle.push(worker);
    }

    fn hire(&mut self) -> std::io::Result<()> {
        let id = self.workers.len();
        let (to, jobs) = sync_channel(1);
        let worker = Worker::new(&self.uri, self.images.clone());
        let inputs = self.inputs.clone();
        std::thread::Builder::new()
            .name(format!("context-{id}"))
            .spawn(move || work(id, worker, &jobs, &inputs))?;
        self.workers.push(to);
        self.idle.push(id);
        Ok(())
    }
}

fn work(id: usize, mut worker: Worker, jobs: &Receiver<Job>, inputs: &SyncSender<Input>) {
    worker.warm_up();
    for job in jobs {
        // A mistake of ours in one operation must not end all others of the VM.
        let report = catch_unwind(AssertUnwindSafe(|| worker.perform(&job)));
        let report = report.unwrap_or_else(|_| mistaken(&job));
        if inputs.send(Input::Finished(id, Box::new(report))).is_err() {
            return;
        }
    }
}

fn mistaken(job: &Job) -> Report {
    let text = "this is a mistake in vmkpi-host; the log says where".to_owned();
    Report {
        uuid: job.uuid.clone(),
        name: None,
        operation: job.operation.clone(),
        result: Err(Trouble::Fault(Fault::Internal, text)),
        times: Times::default(),
        digest: None,
        drive: None,
        descriptor: None,
    }
}
