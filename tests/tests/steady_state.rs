//! A step that only decodes allocates less than one row of logits or hidden states for each
//! sequence, so nothing in it grows with the model or its vocabulary.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_engine::core::Turn;
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::types::{Sampling, SamplingParams, StopConditions};
use folio_tests::{Setup, generation};

const NUM_SEQS: u32 = 8;

#[test]
fn decoding_allocates_nothing_that_grows_with_the_model() {
    let files = ModelFiles::Embedded(folio::builtin::chat());
    let model = ModelConfig::read(&files, None).unwrap();
    let mut core = Setup { max_num_seqs: NUM_SEQS, ..Setup::ROOMY }.start(files).unwrap();
    let mut receivers = Vec::new();
    for index in 0..NUM_SEQS {
        let sampling = match index % 2 {
            0 => Sampling { temperature: 0.0, ..Sampling::default() },
            _ => Sampling { top_p: 0.9, top_k: 40, seed: u64::from(index), ..Sampling::default() },
        };
        let stop = StopConditions { max_tokens: 60, ..StopConditions::default() };
        let params = SamplingParams { sampling, stop, ..SamplingParams::default() };
        let prompt = (0..20).map(|i| 300 + i * 7 + index).collect();
        let (request, of_request) = generation(prompt, params, 1);
        core.admit(request);
        receivers.extend(of_request);
    }
    for _ in 0..10 {
        assert!(matches!(core.step(), Turn::Stepped(_)), "warm-up");
    }
    let smallest_row = model.limits().vocab_size.min(model.hidden_size()) * 4;
    let limit = u64::from(NUM_SEQS * smallest_row);
    let mut bytes: Vec<u64> = (0..40)
        .map(|_| {
            let info = allocation_counter::measure(|| {
                let turn = core.step();
                assert!(matches!(turn, Turn::Stepped(_)), "{turn:?}");
            });
            info.bytes_total
        })
        .collect();
    // Not all of them: an event channel takes a new segment every few dozen tokens.
    bytes.sort_unstable();
    assert!(bytes[bytes.len() * 3 / 4] < limit, "bytes a step: {bytes:?}, limit {limit}");
}
