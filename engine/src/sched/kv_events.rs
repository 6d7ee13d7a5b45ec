//! What enters and leaves the prefix index, told in order: for routers that send a request where
//! its prefix already is.
//!
//! Replaying all events from the start gives the index, but for content under a cache salt, which
//! is nobody else's business and never told. The allocator writes; the engine thread takes what a
//! step has brought.

use std::collections::{HashMap, HashSet};

use super::Scheduler;
use crate::types::TokenId;

/// Identity of the content of a block together with everything before it. Never used twice by an
/// engine.
pub type ContentId = u64;

/// A change of the prefix index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// The contents of blocks that follow each other can be found from now on.
    Stored {
        /// What comes before the first of them; `None` for the beginning of a sequence.
        parent: Option<ContentId>,
        /// One for each block.
        contents: Vec<ContentId>,
        /// The tokens of all blocks, P for each.
        tokens: Vec<TokenId>,
    },
    /// They can no longer be found.
    Removed {
        /// One for each block.
        contents: Vec<ContentId>,
    },
    /// Nothing can be found any more.
    Cleared,
}

impl Scheduler {
    /// Records changes of the prefix index from now on, to be
    /// [taken](Self::take_kv_events) after each step.
    pub fn record_kv_events(&mut self) {
        self.state.allocator.record_events();
    }

    /// The changes since the last call, in order.
    pub fn take_kv_events(&mut self) -> Vec<KvEvent> {
        self.state.allocator.take_events()
    }
}

/// The events of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvBatch {
    /// Counts up by one. A number that is missing is a batch that its receiver had no room for.
    pub number: u64,
    /// What happened, in order; never empty.
    pub events: Vec<KvEvent>,
}

/// Collects events between two takings.
#[derive(Debug, Default)]
pub(super) struct KvRecorder(Option<Record>);

/// What was told, while somebody listens.
#[derive(Debug, Default)]
struct Record {
    events: Vec<KvEvent>,
    /// All that can be found, as far as was told.
    told: HashMap<ContentId, Told>,
}

#[derive(Debug, Default)]
struct Told {
    parent: Option<ContentId>,
    children: HashSet<ContentId>,
}

impl KvRecorder {
    /// Records from now on.
    pub(super) fn start(&mut self) {
        self.0.get_or_insert_default();
    }

    /// All events since the last call.
    pub(super) fn take(&mut self) -> Vec<KvEvent> {
        self.0.as_mut().map(|record| std::mem::take(&mut record.events)).unwrap_or_default()
    }

    /// A block was entered after `parent`; without one, at the beginning of what is under no salt.
    /// What follows content that cannot be found cannot be found either, and is not told.
    pub(super) fn stored(
        &mut self,
        parent: Option<ContentId>,
        content: ContentId,
        block: &[TokenId],
    ) {
        let Some(Record { events, told }) = &mut self.0 else { return };
        if let Some(parent) = parent {
            let Some(parent) = told.get_mut(&parent) else { return };
            parent.children.insert(content);
        }
        told.insert(content, Told { parent, children: HashSet::new() });
        if let Some(KvEvent::Stored { contents, tokens, .. }) = events.last_mut()
            && parent.is_some()
            && contents.last().copied() == parent
        {
            contents.push(content);
            tokens.extend_from_slice(block);
            return;
        }
        let (contents, tokens) = (vec![content], block.to_vec());
        events.push(KvEvent::Stored { parent, contents, tokens });
    }

    /// A block was taken out. All that follows it can no longer be found.
    pub(super) fn removed(&mut self, content: ContentId) {
        let Some(Record { events, told }) = &mut self.0 else { return };
        let Some(Told { parent, .. }) = told.get(&content) else { return };
        if let Some(parent) = parent.and_then(|parent| told.get_mut(&parent)) {
            parent.children.remove(&content);
        }
        let (mut gone, mut next) = (vec![content], 0);
        while let Some(content) = gone.get(next) {
            gone.extend(told.remove(content).unwrap_or_default().children);
            next += 1;
        }
        match events.last_mut() {
            Some(KvEvent::Removed { contents }) => contents.extend(gone),
            _ => events.push(KvEvent::Removed { contents: gone }),
        }
    }

    /// All blocks were taken out.
    pub(super) fn cleared(&mut self) {
        if let Some(record) = &mut self.0 {
            record.told.clear();
            record.events.push(KvEvent::Cleared);
        }
    }
}
