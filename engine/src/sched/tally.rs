//! The scheduler's counts by model, for metrics. Kept as things happen: reading them costs a few
//! additions a model, whatever the number of sequences.

use super::scheduler::{Scheduler, State};
use crate::types::{ModelId, ModelKind, Nanos};

/// The state of one model in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelGauges {
    /// Its sequences that take part in steps.
    pub num_running: u32,
    /// Its sequences that wait, for a turn or for another sequence.
    pub num_waiting: u32,
    /// Those among the waiting that wait for another sequence to compute a prefix they share;
    /// the others wait for a place in the batch, for tokens of the budget or for blocks.
    pub num_deferred: u32,
    /// Prompt tokens of its requests whose prompt was finished.
    pub num_prompt_tokens: u64,
    /// Those among them that were taken from the prefix cache.
    pub num_cached_tokens: u64,
    /// Tokens sampled.
    pub num_generated_tokens: u64,
    /// Times between the tokens of its sequences.
    pub token_gaps: TokenGaps,
}

/// A histogram of the times between two tokens of a sequence, at the ends of their steps:
/// whatever the client's pace, and whether or not the sequence ends well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenGaps {
    /// Gaps up to each of [`TOKEN_GAP_BUCKETS`] and above the one before, then the rest.
    pub counts: [u64; TOKEN_GAP_BUCKETS.len() + 1],
    /// All of them together.
    pub total: Nanos,
}

/// Upper bounds, inclusive, of the histogram of times between tokens.
pub const TOKEN_GAP_BUCKETS: [Nanos; 19] = [
    millis(10),
    millis(25),
    millis(50),
    millis(75),
    millis(100),
    millis(150),
    millis(200),
    millis(300),
    millis(400),
    millis(500),
    millis(750),
    millis(1_000),
    millis(2_500),
    millis(5_000),
    millis(7_500),
    millis(10_000),
    millis(20_000),
    millis(40_000),
    millis(80_000),
];

const fn millis(number: u64) -> Nanos {
    Nanos(number * 1_000_000)
}

impl TokenGaps {
    /// Counts a gap.
    #[inline]
    fn add(&mut self, gap: Nanos, bucket: usize) {
        self.counts[bucket] += 1;
        self.total = self.total + gap;
    }
}

/// What is counted of a model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Sequences admitted and not ended.
    pub(super) num_live: u32,
    pub(super) num_prompt_tokens: u64,
    pub(super) num_cached_tokens: u64,
    pub(super) num_generated_tokens: u64,
    pub(super) token_gaps: TokenGaps,
    /// The latest gap and its bucket: most sequences of a step have the same.
    latest_gap: (Nanos, usize),
}

impl Tally {
    /// Counts a time between two tokens.
    #[inline]
    pub(super) fn add_gap(&mut self, gap: Nanos) {
        if gap != self.latest_gap.0 {
            let bucket = TOKEN_GAP_BUCKETS.partition_point(|&bound| bound < gap);
            self.latest_gap = (gap, bucket);
        }
        self.token_gaps.add(gap, self.latest_gap.1);
    }
}

impl Scheduler {
    /// The state of each model in numbers, in the order of their ids.
    pub fn model_gauges(&self) -> impl Iterator<Item = ModelGauges> + '_ {
        let models = self.state.tallies.iter().zip(0..);
        models.map(|(tally, index)| self.state.gauges_of(ModelId(index), tally))
    }
}

impl State {
    pub(super) fn tally(&mut self, model: ModelId) -> &mut Tally {
        &mut self.tallies[model.index()]
    }

    fn gauges_of(&self, model: ModelId, tally: &Tally) -> ModelGauges {
        // Only a decoder's sequences wait for others, and there is at most one decoder.
        let (num_following, num_held) = match self.config.models[model.index()].kind {
            ModelKind::Decoder => (self.num_following, self.watch.num_held()),
            ModelKind::Encoder | ModelKind::CrossEncoder => (0, 0),
        };
        let num_waiting = self.queue.len_of(model) as u32 + num_following;
        ModelGauges {
            num_running: tally.num_live - num_waiting,
            num_waiting,
            num_deferred: (num_following + num_held).min(num_waiting),
            num_prompt_tokens: tally.num_prompt_tokens,
            num_cached_tokens: tally.num_cached_tokens,
            num_generated_tokens: tally.num_generated_tokens,
            token_gaps: tally.token_gaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::policies::Fcfs;
    use super::*;
    use crate::types::{
        Choice, EngineConfig, Event, EventReceiver, EventSender, Mark, MarkKind, MarkReceiver,
        ModelLimits, PrefixCaching, Request, RequestId, SampledToken, SamplingParams, SeqResult,
        Slo, StepOutput, Task, TenantId,
    };

    fn scheduler(num_blocks: u32) -> Scheduler {
        let limits = |kind| ModelLimits { kind, max_model_len: 64, vocab_size: 100 };
        let config = EngineConfig {
            models: vec![limits(ModelKind::Decoder), limits(ModelKind::Encoder)],
            block_size: 4,
            num_blocks,
            max_num_seqs: 8,
            max_num_batched_tokens: 72,
            max_num_partial_prefills: 2,
            long_prefill_token_threshold: Some(8),
            max_queued_requests: 100,
            prefix_caching: PrefixCaching::Off,
            num_host_blocks: 0,
        };
        Scheduler::new(config.validated().unwrap(), Box::new(Fcfs))
    }

    /// A request of `prompt_len` tokens for `max_tokens` more, or for a vector if that is 0.
    fn request(
        id: u64,
        prompt_len: u32,
        max_tokens: u32,
    ) -> (Request, EventReceiver, MarkReceiver) {
        let (events, receiver) = EventSender::channel(max_tokens.max(1));
        let (events, marks) = events.with_marks();
        let (model, task) = if max_tokens == 0 {
            (ModelId(1), Task::Embed)
        } else {
            let mut params = SamplingParams::default();
            params.stop.max_tokens = max_tokens;
            (ModelId(0), Task::Generate(params))
        };
        let request = Request {
            id: RequestId(id),
            model,
            prompt: (0..prompt_len).collect(),
            task,
            choices: vec![Choice::new(events)],
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        (request, receiver, marks)
    }

    /// Plans a step at `planned` and ends it at `ended`: token 7 or a vector for all that emit.
    fn step(scheduler: &mut Scheduler, planned: u64, ended: u64) {
        let plan = scheduler.plan(Nanos(planned)).expect("work");
        let results = plan.seqs.iter().map(|seq| match (seq.emits, seq.model) {
            (false, _) => SeqResult::Computed,
            (true, ModelId(0)) => SeqResult::Token(SampledToken { id: 7, logprobs: None }),
            (true, _) => SeqResult::Embedding(vec![1.0]),
        });
        let results = results.collect();
        let output = StepOutput { results, device_time: Nanos(1), ..StepOutput::default() };
        let _ = scheduler.commit(&plan, output, Nanos(ended));
        scheduler.assert_consistent();
    }

    fn all(mut marks: MarkReceiver) -> Vec<(u64, MarkKind)> {
        let marks = std::iter::from_fn(|| marks.try_recv().ok());
        marks.map(|Mark { at, kind }| (at.0, kind)).collect()
    }

    #[test]
    fn gaps_between_tokens_are_those_of_the_steps() {
        let mut scheduler = scheduler(100);
        let (request, mut events, _marks) = request(1, 3, 4);
        scheduler.admit(request, Nanos(0));
        let millis = |number: u64| number * 1_000_000;
        // Tokens at 5, 15, 40 and 2040 ms: gaps of 10, 25 and 2000 ms.
        for (planned, ended) in [(1, 5), (5, 15), (20, 40), (1000, 2040)] {
            step(&mut scheduler, millis(planned), millis(ended));
        }
        let gauges: Vec<_> = scheduler.model_gauges().collect();
        let gaps = gauges[0].token_gaps;
        assert_eq!(gaps.total, Nanos(millis(2035)));
        let counts = gaps.counts.iter().enumerate().filter(|&(_, &count)| count > 0);
        // A bound belongs to its bucket: 10 ms, 25 ms, and 2.5 s after 1 s.
        assert_eq!(counts.collect::<Vec<_>>(), [(0, &1), (1, &1), (12, &1)]);
        assert_eq!(gauges[1], ModelGauges::default());
        let stats = loop {
            match events.try_recv().unwrap() {
                Event::Started(stats) => assert_eq!(stats.last_token, None),
                Event::Finished { stats, .. } => break stats,
                _ => {}
            }
        };
        let times = [stats.first_scheduled, stats.first_token, stats.last_token];
        assert_eq!(times, [1, 5, 2040].map(|ms| Some(Nanos(millis(ms)))));
    }

    #[test]
    fn models_are_counted_apart() {
        let mut scheduler = scheduler(100);
        let (chat, _chat_events, _) = request(1, 20, 2);
        let (text, _text_events, _) = request(2, 5, 0);
        scheduler.admit(chat, Nanos(0));
        scheduler.admit(text, Nanos(0));
        let numbers = |scheduler: &Scheduler| {
            let gauges = scheduler.model_gauges();
            gauges.map(|of| (of.num_running, of.num_waiting)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&scheduler), [(0, 1), (0, 1)]);
        step(&mut scheduler, 1, 2); // a chunk of the prompt, and the text
        assert_eq!(numbers(&scheduler), [(1, 0), (0, 0)]);
        for at in 3..6 {
            step(&mut scheduler, at, at);
        }
        assert_eq!(numbers(&scheduler), [(0, 0), (0, 0)]);
        let tokens = scheduler.model_gauges();
        let tokens = tokens.map(|of| (of.num_prompt_tokens, of.num_generated_tokens));
        assert_eq!(tokens.collect::<Vec<_>>(), [(20, 2), (5, 0)]);
    }

    #[test]
    fn marks_tell_chunks_from_decoding() {
        let mut scheduler = scheduler(100);
        let (request, _events, marks) = request(1, 17, 3);
        scheduler.admit(request, Nanos(0));
        for at in [10, 20, 30, 40, 50] {
            step(&mut scheduler, at, at + 5);
        }
        let chunk =
            |at, num| [(at, MarkKind::ChunkPlanned(num)), (at + 5, MarkKind::ChunkComputed(num))];
        assert_eq!(all(marks), [chunk(10, 8), chunk(20, 8), chunk(30, 1)].concat());
    }

    /// Two sequences that fit, but not to their ends: the younger gives way and comes back.
    #[test]
    fn marks_tell_of_preemption() {
        let mut scheduler = scheduler(5);
        let (first, _events, _) = request(1, 7, 8);
        let (second, _other_events, marks) = request(2, 7, 8);
        scheduler.admit(first, Nanos(0));
        scheduler.admit(second, Nanos(0));
        let mut at = 0;
        while !scheduler.is_idle() {
            at += 10;
            step(&mut scheduler, at, at + 5);
            assert!(at < 1000, "never done");
        }
        let marks = all(marks);
        let kinds: Vec<_> = marks.iter().map(|&(_, kind)| kind).collect();
        let preempted = kinds.iter().position(|&kind| kind == MarkKind::Preempted);
        let resumed = kinds.iter().position(|&kind| kind == MarkKind::Resumed);
        assert!(preempted.is_some() && preempted < resumed, "{marks:?}");
        // What it had is computed again: its prompt and what was generated.
        let again = kinds[resumed.unwrap()..].iter().find_map(|kind| match kind {
            MarkKind::ChunkPlanned(num) => Some(*num),
            _ => None,
        });
        assert_eq!(again, Some(8), "{marks:?}");
        assert!(marks.is_sorted_by_key(|&(at, _)| at));
    }

    #[test]
    fn a_choice_keeps_so_many_marks_and_no_more() {
        let (events, _receiver) = EventSender::channel(1);
        let (events, marks) = events.with_marks();
        for at in 0..2 * crate::types::MAX_MARKS as u64 {
            events.mark(Nanos(at), MarkKind::Preempted);
        }
        let marks = all(marks);
        assert_eq!(marks.len(), crate::types::MAX_MARKS);
        assert_eq!(marks[0].0, 0);
    }
}
