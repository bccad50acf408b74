//! What is said when there is no answer: what it may be, and what to do.

use vmkpi::query::{Reason, Subject};

use super::super::watch::text::safe;

/// Why the host that has the VM does not answer the question.
pub fn failed(reason: Reason, (subject, point): (&Subject, &str)) -> String {
    let (vm, point) = (safe(subject.vm.as_str()), safe(point));
    match reason {
        Reason::Unreachable => format!(
            "the guest of VM {vm:?} cannot be reached by its host: vmkpi-guest does not run there, or its link is \
             down (vmkpi-host status says which)"
        ),
        Reason::TimedOut => format!("the guest of VM {vm:?} does not answer its host"),
        Reason::Busy => {
            format!(
                "VM {vm:?} is asked by too many at once: ask again when they have got their answers"
            )
        }
        Reason::UnknownPoint => format!(
            "the guest of VM {vm:?} holds nothing of {point}: nobody has stored it, or under another name"
        ),
        Reason::NotKept => format!(
            "the history of {point} is not kept where the VM runs: infrastructure measurements are delivered, and \
             vmkpi collect keeps them"
        ),
        Reason::Unsealed => {
            "the host cannot seal the answer, so it does not leave (the host's log says why)"
                .to_owned()
        }
        Reason::Failed => {
            format!("the guest of VM {vm:?} or its host cannot read {point}; their logs say why")
        }
    }
}

/// Nobody has said anything; `refused`: how many answers nobody who is believed has signed, and why not.
pub fn silence(
    subject: &Subject,
    public_key: &str,
    seconds: f64,
    refused: &[(String, u64)],
) -> String {
    let (site, vm, name) = (
        safe(subject.site.as_str()),
        safe(subject.vm.as_str()),
        safe(subject.consumer.as_str()),
    );
    let mut text = format!("no answer about VM {vm:?} of site {site:?} within {seconds} s.");
    for (reason, count) in refused {
        text.push_str(&format!(" {count} answers were refused: {reason}."));
    }
    text.push_str(&format!(
        " It may be that:\n  \
         - no host follows a VM of that name for that site, or it is not connected to this broker \
         (vmkpi watch shows who delivers);\n  \
         - the VM's descriptor does not name this Consumer with this key: [[confirm]] name = {name:?}, \
         key = {public_key:?};\n  \
         - this machine's clock is more than five minutes from the host's;\n  \
         - the broker's ACL does not let this user write to {:?} or the host read it.\n\
         vmkpi_queries_refused_total at the host counts questions that were not answered, by reason.",
        safe(&subject.topic(vmkpi::topic::Branch::Query))
    ));
    text
}
