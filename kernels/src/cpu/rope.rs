//! Rotary position embedding, half-rotation style.

use super::output::Output;
use super::pool::Pool;
use super::simd::{Kernel, Simd, dispatch};

/// Tables of a rotary embedding. R, the rotated dimensions of a head, is the first R <= D.
///
/// Dimension i < R/2 is paired with i + R/2, as in Hugging Face Llama.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Cosines, `[max_position, R / 2]`, any scaling of frequencies included.
    pub cos: &'a [f32],
    /// Sines, likewise.
    pub sin: &'a [f32],
    /// Rotated dimensions R: even.
    pub rotary_size: usize,
    /// Head size D.
    pub head_size: usize,
}

/// Rotates every head of `x`, `[T, heads, D]`, in place by its token's position, `[T]`.
///
/// The number of heads is taken from `x`. Panics if sizes do not agree or a position has no row in
/// the tables.
pub fn rope(pool: &Pool, x: &mut [f32], positions: &[u32], rope: Rope<'_>) {
    let half = rope.rotary_size / 2;
    assert!(
        half > 0 && half * 2 == rope.rotary_size && rope.rotary_size <= rope.head_size,
        "rope: rotary size {} is not even and in 2..={}",
        rope.rotary_size,
        rope.head_size
    );
    assert!(
        rope.cos.len() == rope.sin.len() && rope.cos.len().is_multiple_of(half),
        "rope: tables of {} and {} elements for {half} frequencies",
        rope.cos.len(),
        rope.sin.len()
    );
    let num_tokens = positions.len();
    let row = x.len().checked_div(num_tokens).unwrap_or(0);
    assert!(
        x.len() == num_tokens * row && row.is_multiple_of(rope.head_size),
        "rope: x has {} elements for {num_tokens} tokens of head size {}",
        x.len(),
        rope.head_size
    );
    let max_position = rope.cos.len() / half;
    for (token, &position) in positions.iter().enumerate() {
        assert!(
            (position as usize) < max_position,
            "rope: token {token} has position {position}, the tables end at {max_position}"
        );
    }
    let x = Output::new(x);
    let isa = pool.isa();
    pool.run_ranges(num_tokens, row, &|first, last| {
        // SAFETY: ranges of tokens are disjoint, positions were checked, the instruction set is
        // there.
        unsafe {
            dispatch(isa, Rotate { x, row, positions, rope, first, last });
        };
    });
}

/// One task: tokens `first..last`, `row` elements each.
struct Rotate<'a> {
    x: Output<'a>,
    row: usize,
    positions: &'a [u32],
    rope: Rope<'a>,
    first: usize,
    last: usize,
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let half = self.rope.rotary_size / 2;
        for token in self.first..self.last {
            let place = self.positions[token] as usize * half;
            let cos = &self.rope.cos[place..place + half];
            let sin = &self.rope.sin[place..place + half];
            // SAFETY: this task alone has the token.
            let row = unsafe { self.x.part(token * self.row, (token + 1) * self.row) };
            for head in row.chunks_exact_mut(self.rope.head_size) {
                let (low, high) = head[..self.rope.rotary_size].split_at_mut(half);
                // SAFETY: four slices of `half` elements.
                unsafe { rotate::<S>(low, high, cos, sin) };
            }
        }
    }
}

/// `(low, high) = (low cos - high sin, high cos + low sin)`.
#[inline(always)]
unsafe fn rotate<S: Simd>(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = low.len();
    let turn = |a: S::V, b: S::V, cos: S::V, sin: S::V| {
        // SAFETY: the instruction set is the caller's.
        unsafe {
            let minus_b = S::sub(S::splat(0.0), b);
            (S::fma(minus_b, sin, S::mul(a, cos)), S::fma(a, sin, S::mul(b, cos)))
        }
    };
    let (low, high, cos, sin) = (low.as_mut_ptr(), high.as_mut_ptr(), cos.as_ptr(), sin.as_ptr());
    let mut i = 0;
    // SAFETY: indices stay below `half`, the length of all four.
    unsafe {
        while i + S::LANES <= half {
            let (a, b) = (S::load(low.add(i)), S::load(high.add(i)));
            let (a, b) = turn(a, b, S::load(cos.add(i)), S::load(sin.add(i)));
            S::store(low.add(i), a);
            S::store(high.add(i), b);
            i += S::LANES;
        }
        if i < half {
            let len = half - i;
            let (a, b) = (S::load_partial(low.add(i), len), S::load_partial(high.add(i), len));
            let (cos, sin) = (S::load_partial(cos.add(i), len), S::load_partial(sin.add(i), len));
            let (a, b) = turn(a, b, cos, sin);
            S::store_partial(low.add(i), a, len);
            S::store_partial(high.add(i), b, len);
        }
    }
}
