//! What has lost its name: forgotten when the kernel has forgotten it, and let go when there is too much of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Body, Content, Inodes, Layer, MAX_OLD_LAYERS};

impl Inodes {
    /// Forgets what has no name and no reference, and lets go of the oldest layers beyond the limit.
    pub(super) fn retire(&mut self) {
        let changes = self.changes;
        let mut forgotten = Vec::new();
        for (ino, inode) in &mut self.inodes {
            if inode.named {
                inode.retired = 0;
            } else if inode.lookups == 0 {
                forgotten.push(*ino);
            } else if inode.retired == 0 {
                inode.retired = changes;
            }
        }
        for ino in forgotten {
            self.remove(ino);
        }
        let oldest = self.old_layers();
        for layer in oldest.iter().skip(MAX_OLD_LAYERS) {
            self.let_go(layer);
        }
    }

    /// The layers of which something has no name, those that lost a name last first.
    fn old_layers(&self) -> Vec<*const Layer> {
        let mut last: HashMap<*const Layer, u64> = HashMap::new();
        for inode in self.inodes.values() {
            if let Body::File(Content::Layer(layer, _)) = &inode.body {
                // What is shown is younger than anything old.
                let age = if inode.named { u64::MAX } else { inode.retired };
                let known = last.entry(Arc::as_ptr(layer)).or_default();
                *known = (*known).max(age);
            }
        }
        last.retain(|_, age| *age != u64::MAX);
        let mut layers: Vec<_> = last.into_iter().collect();
        layers.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
        layers.into_iter().map(|(layer, _)| layer).collect()
    }

    fn let_go(&mut self, which: &*const Layer) {
        self.cut_off += 1;
        for inode in self.inodes.values_mut() {
            if let Body::File(content) = &mut inode.body
                && matches!(content, Content::Layer(layer, _) if Arc::as_ptr(layer) == *which)
            {
                *content = Content::Gone(content.size());
            }
        }
    }
}
