//! Traces of real services: the simulator's readers, with prompts made up to their lengths and
//! shared prefixes.

use std::collections::HashMap;
use std::path::Path;

use folio_engine::types::TokenId;
use folio_sim::trace::{Format, TraceOptions, open};
use folio_sim::workload::{Record, Workload};

use super::super::error::BenchError;
use super::super::request::Request;
use super::{Made, Maker};

/// How a trace is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// How it is written down.
    pub format: Format,
    /// Tokens that an id of a prefix stands for, where the format's own number is not right.
    pub prefix_block: Option<u32>,
}

impl Trace {
    pub(super) fn read(&self, path: &Path, maker: &Maker) -> Result<Made, BenchError> {
        let fail = |error: &dyn std::fmt::Display| BenchError::file(path, error);
        let options = TraceOptions {
            format: Some(self.format),
            prefix_block: self.prefix_block,
            max_bad_rows: 0,
        };
        let mut trace = open(path, &options).map_err(|error| fail(&error))?;
        let mut prompts = Prompts::new(maker);
        let mut requests = Vec::new();
        while requests.len() < maker.num_prompts
            && let Some(record) = trace.next()
        {
            let record = record.map_err(|error| fail(&error))?;
            requests.push(prompts.request(&record, requests.len(), self.format));
        }
        if requests.is_empty() {
            return Err(fail(&"has no requests"));
        }
        let mut notes = Vec::new();
        if requests.len() < maker.num_prompts {
            let (has, wanted) = (requests.len(), maker.num_prompts);
            notes.push(format!("the trace has {has} requests, fewer than --num-prompts {wanted}"));
        }
        let dropped = trace.tally().dropped;
        notes
            .extend(dropped.iter().map(|(why, num)| format!("left out of the trace: {num} {why}")));
        Ok((requests, notes))
    }
}

/// Makes prompts; equal blocks of a prefix get equal tokens.
struct Prompts<'a> {
    maker: &'a Maker,
    blocks: HashMap<(u64, u32), Vec<TokenId>>,
}

impl<'a> Prompts<'a> {
    fn new(maker: &'a Maker) -> Self {
        Self { maker, blocks: HashMap::new() }
    }

    fn request(&mut self, record: &Record, index: usize, format: Format) -> Request {
        let Maker { vocabulary, form, .. } = self.maker;
        let len = record.input as usize;
        let mut tokens: Vec<TokenId> = Vec::with_capacity(len);
        for &id in record.prefix.iter() {
            let block = self.blocks.entry((id, record.prefix_block)).or_insert_with(|| {
                let mut random = self.maker.random(&purpose(b"block", id));
                vocabulary.random(&mut random, *form, record.prefix_block as usize)
            });
            tokens.extend(block.iter().take(len - tokens.len()));
        }
        let mut random = self.maker.random(&purpose(b"own", index as u64));
        tokens.extend(vocabulary.random(&mut random, *form, len - tokens.len()));
        let mut request =
            Request::new(vocabulary.prompt(*form, tokens), record.input, record.output);
        request.timestamp = format.has_times().then(|| record.arrival.as_secs_f64());
        request.after =
            record.after.map(|after| (after.record as usize, after.think.as_secs_f64()));
        request.tenant = (record.tenant > 0).then_some(record.tenant);
        request
    }
}

/// A word and a number, for a generator of its own.
fn purpose(word: &[u8], number: u64) -> Vec<u8> {
    [word, &number.to_le_bytes()].concat()
}
