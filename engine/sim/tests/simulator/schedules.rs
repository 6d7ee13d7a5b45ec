//! Tiny schedules worked out by hand: arrivals and step times in, latencies out.

use crate::common::{config, ms, options, record, run, times};
use folio_engine::types::{EngineConfig, PrefixCaching};
use folio_sim::outcome::{End, Verdict};
use folio_sim::{After, Detail, Host, Options, Overlap, Record, Slo};

/// One request: 5 prompt tokens at 100 ms, then two steps of one token.
#[test]
fn a_request_alone_takes_the_sum_of_its_steps() {
    let outcome = run(options(config()), vec![record(100, 5, 3)]);
    assert_eq!(times(&outcome, 0), (100, 115, 137));
    let request = outcome.requests[0];
    assert_eq!((request.input, request.output, request.end), (5, 3, End::Complete));
    assert_eq!(request.ttft(), Some(ms(15)));
    assert_eq!(request.e2el(), Some(ms(37)));
    assert_eq!(request.max_gap, ms(11));
    assert!((request.tpot_ns().unwrap() - 11e6).abs() < 1e-6);
    assert_eq!(outcome.work.totals.num_steps, 3);
    assert_eq!(outcome.work.busy, ms(37));
}

/// The first runs alone until 15 ms; the second, which came at 3 ms, waits for that. Then a step
/// of 1 + 7 tokens until 33 ms; then one of two tokens until 45 ms, with which the first ends, and
/// one of the second alone until 56 ms.
#[test]
fn a_request_waits_for_the_step_that_runs_and_shares_the_next() {
    let outcome = run(options(config()), vec![record(0, 5, 3), record(3, 7, 3)]);
    assert_eq!(times(&outcome, 0), (0, 15, 45));
    assert_eq!(times(&outcome, 1), (15, 33, 56));
    assert_eq!(outcome.requests[1].ttft(), Some(ms(30)));
}

/// 12 tokens a step: a prompt of 20 takes two steps, of 12 (22 ms) and of 8 (18 ms).
#[test]
fn a_long_prompt_takes_several_steps() {
    let engine = EngineConfig { max_num_batched_tokens: 12, max_num_seqs: 4, ..config() };
    let outcome = run(options(engine), vec![record(0, 20, 2)]);
    assert_eq!(times(&outcome, 0), (0, 40, 51));
}

/// The host takes 4 ms a step and 1 ms a sequence. One after the other, each step is 5 ms longer.
/// With a step planned ahead, that is hidden behind the device, but for the first step, and a last
/// step is computed in vain, for it is planned before it is known that the answer is complete.
#[test]
fn host_time_adds_to_steps_unless_it_overlaps() {
    let host = Host { per_step: ms(4), per_sequence: ms(1), overlap: Overlap::None };
    let records = vec![record(0, 5, 3)];
    let one_by_one = run(Options { host, ..options(config()) }, records.clone());
    assert_eq!(times(&one_by_one, 0), (0, 20, 52));
    let host = Host { overlap: Overlap::Ahead, ..host };
    let ahead = run(Options { host, ..options(config()) }, records);
    assert_eq!(times(&ahead, 0), (0, 20, 42));
    assert_eq!(ahead.work.totals.num_steps, 4);
    assert_eq!(ahead.work.totals.num_wasted_tokens, 1);
    assert_eq!(ahead.requests[0].output, 3);
}

/// The first turn ends at 37 ms; its user thinks for 100 ms.
#[test]
fn a_turn_waits_for_the_one_before_it_and_for_its_user() {
    let first = Record { session: Some(1), ..record(0, 5, 3) };
    let after = After { record: 0, think: ms(100) };
    let second = Record { session: Some(1), after: Some(after), ..record(0, 2, 1) };
    let outcome = run(options(config()), vec![first, second]);
    assert_eq!(outcome.requests[1].times.arrival, ms(137));
    assert_eq!(times(&outcome, 1), (137, 149, 149));
}

/// Two prompts of 32 tokens are equal for 16: with blocks of 16 the second computes 16 tokens. A
/// third of the same length that shares nothing computes all.
#[test]
fn equal_ids_are_equal_prefixes_and_nothing_else_is() {
    let shared = |arrival, ids: &[u64]| Record {
        prefix: ids.into(),
        prefix_block: 16,
        ..record(arrival, 32, 1)
    };
    let engine = EngineConfig { prefix_caching: PrefixCaching::On, ..config() };
    let records = vec![shared(0, &[7, 8]), shared(100, &[7, 9]), shared(200, &[8, 7])];
    let outcome = run(options(engine), records);
    let cached: Vec<u32> = outcome.requests.iter().map(|request| request.num_cached).collect();
    assert_eq!(cached, [0, 16, 0]);
    assert_eq!(times(&outcome, 0).1, 42);
    assert_eq!(times(&outcome, 1).1, 126);
    assert_eq!(times(&outcome, 2).1, 242);
}

/// Four requests that cannot all be answered, and why.
#[test]
fn what_cannot_be_answered_is_told_apart() {
    let mut options = options(config());
    options.front.max_tokens = 4;
    options.front.timeout = Some(ms(60));
    options.slo = Slo { ttft: Some(ms(20)), ..Slo::default() };
    let records =
        vec![record(0, 5, 3), record(1000, 1000, 1), record(2000, 5, 9), record(3000, 90, 2)];
    let outcome = run(options, records);
    let ends: Vec<End> = outcome.requests.iter().map(|request| request.end).collect();
    assert_eq!(ends, [End::Complete, End::TooLong, End::Cut, End::TimedOut]);
    assert_eq!(outcome.requests[2].output, 4, "as many as may be asked for");
    assert_eq!(outcome.requests[3].output, 1, "100 ms after its arrival its time was up");
    let verdicts: Vec<Verdict> = outcome.requests.iter().map(|request| request.verdict).collect();
    assert_eq!(verdicts, [Verdict::Met, Verdict::Missed, Verdict::Met, Verdict::Missed]);
}

/// Blocks for 64 tokens; two requests of 24 + 16 tokens need 80. The younger gives way once and is
/// computed again.
#[test]
fn preemption_is_counted_where_memory_is_short() {
    let engine = EngineConfig { num_blocks: 17, block_size: 4, ..config() };
    let outcome = run(options(engine), vec![record(0, 24, 16), record(0, 24, 16)]);
    let preempted: Vec<u32> =
        outcome.requests.iter().map(|request| request.num_preemptions).collect();
    assert_eq!(preempted, [0, 1]);
    assert_eq!(outcome.work.totals.num_preemptions, 1);
    assert!(outcome.requests.iter().all(|request| request.output == 16));
}

/// The time of every token, on request.
#[test]
fn every_token_is_remembered_where_that_is_wanted() {
    let options = Options { detail: Detail::Tokens, ..options(config()) };
    let outcome = run(options, vec![record(0, 5, 3)]);
    assert_eq!(outcome.tokens, [[ms(15), ms(26), ms(37)]]);
    assert_eq!(outcome.gaps.mean_ms().round() as u64, 11);
}
