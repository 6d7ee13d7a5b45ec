//! Made-up tokens: equal exactly where the workload says that prompts are equal.
//!
//! A token is 31 bits of a hash of where it comes from, so a block of them tells its source apart
//! from any other. Generated tokens are a function of sequence and position, as is needed after a
//! preemption.

use folio_engine::types::{PrefixCaching, TokenId};

use crate::workload::Record;

/// Vocabulary of the simulated model: made-up tokens are below it.
pub const VOCAB_SIZE: u32 = u32::MAX;

/// The token that ends an answer; no prompt contains it.
pub(crate) const STOP_TOKEN: TokenId = VOCAB_SIZE - 1;

/// Turns records into prompts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prompts {
    /// Key of the tokens that nobody shares.
    pub(crate) seed: u64,
    /// Without a cache nobody compares tokens, and none need be made up.
    pub(crate) caching: PrefixCaching,
}

impl Prompts {
    /// The prompt of the record number `index`, `num_more` tokens longer than it says.
    pub(crate) fn tokens(&self, record: &Record, index: u64, num_more: u32) -> Vec<TokenId> {
        let num_tokens = (record.input + num_more) as usize;
        if self.caching == PrefixCaching::Off {
            return vec![0; num_tokens];
        }
        let mut tokens = Vec::with_capacity(num_tokens);
        let block = record.prefix_block as usize;
        for &id in record.prefix.iter() {
            let end = num_tokens.min(tokens.len() + block);
            fill(&mut tokens, end, mix(id ^ SHARED));
        }
        fill(&mut tokens, num_tokens, mix(mix(self.seed) ^ index));
        tokens
    }
}

/// Tells ids of prefixes from numbers of records.
const SHARED: u64 = 0x5eed_0f5b_a12e_d000;

/// Appends tokens of `source` up to a length of `end`.
fn fill(tokens: &mut Vec<TokenId>, end: usize, source: u64) {
    let start = tokens.len();
    let num_new = end.saturating_sub(start) as u64;
    tokens.extend((0..num_new).map(|offset| token(source, offset)));
}

/// The token that the sequence `id` generates at `position`.
pub(crate) fn generated(id: u64, position: u32) -> TokenId {
    token(!id, u64::from(position))
}

/// One multiplication a token: the hash of neighbours is as different as that of strangers in the
/// upper half, which is all that is used.
fn token(source: u64, offset: u64) -> TokenId {
    let product = (source ^ offset.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((product ^ source) >> 33) as u32
}

/// A bijection of 64 bits in which every bit depends on every other (SplitMix64's last step).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
