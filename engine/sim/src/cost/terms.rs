//! The terms that a step's time is made of: each a number that follows from the step's shape.
//!
//! A fit gives each a price. Tokens come in pieces, the first 8 of a step, the next 8, and so
//! on: what one more costs depends on how many there are, since few tokens wait for the weights
//! and many for the arithmetic.

use folio_engine::types::BatchShape;

/// How many terms there are.
pub const NUM_TERMS: usize = 14;

/// Their names in files, each with what it counts.
pub const TERMS: [(&str, &str); NUM_TERMS] = [
    ("step", "steps"),
    ("sequence", "sequences"),
    ("prefill_sequence", "sequences with more than one token"),
    ("emitting", "rows through the output matrix"),
    ("token_to_8", "tokens of the step up to the 8th"),
    ("token_to_16", "tokens from the 9th to the 16th"),
    ("token_to_64", "tokens from the 17th to the 64th"),
    ("token_to_256", "tokens from the 65th to the 256th"),
    ("token_to_1024", "tokens from the 257th to the 1024th"),
    ("token_above", "tokens beyond the 1024th"),
    ("prefill_pair", "pairs of query and key in prompts"),
    ("prefill_context", "computed tokens that chunks of prompts read"),
    ("decode_context", "computed tokens that single rows read"),
    ("swapped_block", "blocks moved to or from the host"),
];

/// Ends of the pieces that tokens come in.
const PIECES: [u32; 5] = [8, 16, 64, 256, 1024];

/// How much of each term there is in a step of this shape, in the order of [`TERMS`].
#[must_use]
pub fn terms(shape: &BatchShape) -> [f64; NUM_TERMS] {
    let num_tokens = shape.num_tokens;
    let piece = |start: u32, end: u32| f64::from(num_tokens.clamp(start, end) - start);
    let [first, second, third, fourth, fifth] = PIECES;
    [
        1.0,
        f64::from(shape.num_seqs),
        f64::from(shape.num_prefill()),
        f64::from(shape.num_emitting),
        piece(0, first),
        piece(first, second),
        piece(second, third),
        piece(third, fourth),
        piece(fourth, fifth),
        piece(fifth, u32::MAX),
        shape.prefill_work as f64,
        shape.prefill_context as f64,
        shape.decode_context as f64,
        f64::from(shape.num_swapped_blocks),
    ]
}

#[cfg(test)]
mod tests {
    use folio_engine::types::Emission;

    use super::*;

    #[test]
    fn the_terms_of_a_mixed_step_are_those_counted_by_hand() {
        let mut shape = BatchShape::row(100..101, Emission::Result);
        shape.add(10..80, Emission::Nothing);
        shape.num_swapped_blocks = 3;
        let expected =
            [1.0, 2.0, 1.0, 1.0, 8.0, 8.0, 48.0, 7.0, 0.0, 0.0, 3150.0, 10.0, 100.0, 3.0];
        assert_eq!(terms(&shape).map(f64::to_bits), expected.map(f64::to_bits));
    }

    #[test]
    fn the_pieces_of_tokens_add_up() {
        for num_tokens in [1, 16, 17, 64, 255, 1024, 1025, 16_384] {
            let terms = terms(&BatchShape::row(0..num_tokens, Emission::Nothing));
            let sum: f64 = terms[4..10].iter().sum();
            assert_eq!(sum.to_bits(), f64::from(num_tokens).to_bits());
        }
    }
}
