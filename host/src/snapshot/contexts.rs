//! What VMs are told, as metrics.

use crate::context::machine::Trigger;
use crate::context::status::{BOUNDS, Ending, Fault, Phase, Seen, VmContext};
use crate::metrics::{Labels, Metric, Page};

/// Every series of the recontextualizer; what has not happened is there with 0.
pub(super) fn add(page: &mut Page, seen: &Seen) {
    let none = Labels::default();
    for (phase, histogram) in Phase::ALL.iter().zip(&seen.phases) {
        let labels = none.with("phase", phase.as_str());
        let values = (&histogram.counts[..], histogram.count, histogram.seconds);
        page.add_histogram(Metric::RecontextualizationSeconds, &labels, &BOUNDS, values);
    }
    for trigger in Trigger::ALL {
        let event = none.with("event", trigger.as_str());
        for ending in Ending::ALL {
            let count = seen.endings.get(&(trigger, ending)).copied().unwrap_or(0);
            let labels = event.with("outcome", ending.as_str());
            page.add(Metric::Recontextualizations, &labels, count as f64);
        }
    }
    for fault in Fault::ALL {
        let count = seen.faults.get(&fault).copied().unwrap_or(0);
        let labels = none.with("reason", fault.as_str());
        page.add(Metric::ContextErrors, &labels, count as f64);
    }
    page.add(Metric::ContextWaiting, &none, seen.waiting as f64);
    page.add(Metric::ContextStuck, &none, seen.late() as f64);
}

/// What one VM is told.
pub(super) fn add_vm(page: &mut Page, vm: &Labels, context: &VmContext) {
    for (class, layer) in &context.layers {
        let labels = vm.with("class", class.as_str());
        let problem = f64::from(layer.problem.is_some());
        page.add(Metric::ContextProblem, &labels, problem);
        if let Some(digest) = &layer.digest {
            page.add(Metric::ContextInfo, &labels.with("digest", digest), 1.0);
        }
        if let Some(since) = layer.since {
            page.add(Metric::ContextTime, &labels, since.as_seconds_f64());
        }
    }
}
