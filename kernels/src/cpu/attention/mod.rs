//! Attention over a paged cache ([`paged_attention`]) and over whole short texts
//! ([`encoder_attention`]).
//!
//! Both walk the keys in tiles of [`TILE`] at absolute positions with an online softmax
//! (`softmax`), so a query's result depends on its keys alone: not on the block size, nor on the
//! queries beside it.

mod encoder;
mod paged;
mod softmax;

pub use encoder::{EncoderAttention, encoder_attention};
pub use paged::{PagedAttention, paged_attention};

/// Keys per step of the online softmax, counted from position zero.
const TILE: usize = 64;
/// Keys per run of contiguous scores; divides [`TILE`], a multiple of every lane count.
const RUN: usize = 16;
/// Query rows that one task carries through the keys together.
const MAX_ROWS: usize = 32;
/// The largest head size.
const MAX_HEAD_SIZE: usize = 256;

/// Checks the numbers of heads and the head size, which both entry points take.
fn check_heads(name: &str, num_heads: usize, num_kv_heads: usize, head_size: usize) {
    assert!(
        num_kv_heads > 0 && num_heads > 0 && num_heads.is_multiple_of(num_kv_heads),
        "{name}: {num_heads} query heads are not a multiple of {num_kv_heads} key/value heads"
    );
    assert!(
        (1..=MAX_HEAD_SIZE).contains(&head_size),
        "{name}: head size {head_size} is not in 1..={MAX_HEAD_SIZE}"
    );
}

/// Checks that `cu_seqlens` cuts `num_tokens` tokens and returns the number of sequences.
fn check_cu_seqlens(name: &str, cu_seqlens: &[u32], num_tokens: usize) -> usize {
    let is_valid = cu_seqlens.first() == Some(&0)
        && cu_seqlens.last().map(|&n| n as usize) == Some(num_tokens)
        && cu_seqlens.is_sorted();
    assert!(
        is_valid,
        "{name}: cu_seqlens {cu_seqlens:?} does not rise from 0 to {num_tokens} tokens"
    );
    cu_seqlens.len() - 1
}
