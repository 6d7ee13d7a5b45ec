//! Whether preempted sequences are worth saving in host memory: decided once, at the start.
//!
//! Saving a token and bringing it back moves its keys and values over the link twice; dropping it
//! means computing it again. Both grow alike with the length of the sequence, so the answer is one
//! for a model on a machine. Copies run on the stream of the steps, so both ways count in full.

use std::sync::Arc;

use folio_kernels::cuda::{self, Context, Driver};

use crate::exec::memory::MemoryPlan;
use crate::model::ModelConfig;
use crate::ops::failure;
use crate::types::{Clock, ModelKind, Result, SystemClock};

/// Bytes of one copy that is timed: long enough to reach the rate of the link.
const TIMED_BYTES: usize = 8 << 20;
const NUM_TIMED: usize = 4;

/// What a prompt reaches of the nominal rate of a device.
const REACHED: f64 = 0.7;

/// Rates of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwapRates {
    /// From device memory to pinned host memory, in bytes a second.
    pub out_bytes_per_s: f64,
    /// From pinned host memory to device memory, in bytes a second.
    pub in_bytes_per_s: f64,
    /// Of long prompts, in floating-point operations a second.
    pub flops: f64,
}

/// What a token of a decoder amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSize {
    /// Bytes of its keys and values in all layers.
    pub kv_bytes: u64,
    /// Weights that it is multiplied with.
    pub num_params: u64,
}

impl SwapRates {
    /// Measures the link of a device with a few megabytes each way; how fast it computes is taken
    /// from what it is.
    pub fn measure(driver: &Arc<dyn Driver>) -> Result<Self> {
        measure(driver).map_err(|error| failure(&error))
    }

    /// Seconds that saving a token and bringing it back take.
    #[must_use]
    pub fn swap_seconds(self, token: TokenSize) -> f64 {
        let kv_bytes = token.kv_bytes as f64;
        kv_bytes / self.out_bytes_per_s + kv_bytes / self.in_bytes_per_s
    }

    /// Seconds that computing a token as part of a long prompt takes: a multiplication and an
    /// addition for each weight. Attention comes on top, which speaks for saving.
    #[must_use]
    pub fn recompute_seconds(self, token: TokenSize) -> f64 {
        2.0 * token.num_params as f64 / self.flops
    }

    /// Whether saving is the faster way.
    #[must_use]
    pub fn prefers_swap(self, token: TokenSize) -> bool {
        self.swap_seconds(token) < self.recompute_seconds(token)
    }
}

/// How preempted sequences will be treated, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwapChoice {
    /// Blocks of host memory, for [`MemoryPlan`] and
    /// [`EngineConfig`](crate::types::EngineConfig) alike; 0 when saving does not pay.
    pub num_host_blocks: u32,
    /// Seconds that saving a token and bringing it back take.
    pub swap_seconds: f64,
    /// Seconds that computing it again takes.
    pub recompute_seconds: f64,
}

impl SwapChoice {
    /// Chooses for the decoder among `configs`, with up to `host_bytes` of pinned memory and no
    /// more than would hold the whole KV cache. `None` without a decoder.
    #[must_use]
    pub fn new(
        rates: SwapRates,
        configs: &[ModelConfig],
        plan: &MemoryPlan,
        host_bytes: u64,
    ) -> Option<Self> {
        let kv = plan.reserve.kv?;
        let decoder = configs.iter().find(|config| config.limits().kind == ModelKind::Decoder)?;
        let dtype_bytes = plan.layout.dtype.num_bytes() as u64;
        let block_bytes = kv.numbers_per_block() as u64 * dtype_bytes;
        let token = TokenSize {
            kv_bytes: block_bytes / kv.block_size as u64,
            num_params: decoder.weights_bytes_on(plan.layout) / dtype_bytes,
        };
        let most = plan.num_blocks().saturating_sub(1);
        let num_host_blocks = if rates.prefers_swap(token) {
            most.min(u32::try_from(host_bytes / block_bytes).unwrap_or(u32::MAX))
        } else {
            0
        };
        Some(Self {
            num_host_blocks,
            swap_seconds: rates.swap_seconds(token),
            recompute_seconds: rates.recompute_seconds(token),
        })
    }
}

impl std::fmt::Display for SwapChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [swap, recompute] = [self.swap_seconds, self.recompute_seconds].map(|s| s * 1e6);
        write!(
            f,
            "a preempted token takes {swap:.1} us to swap out and in and {recompute:.1} us to \
             compute again: "
        )?;
        match self.num_host_blocks {
            0 => f.write_str("preemption recomputes"),
            num_blocks => write!(f, "preemption swaps, to {num_blocks} blocks of host memory"),
        }
    }
}

fn measure(driver: &Arc<dyn Driver>) -> cuda::Result<SwapRates> {
    let context = Context::new(Arc::clone(driver))?;
    let device = context.allocate(TIMED_BYTES)?;
    let mut host = context.allocate_pinned(TIMED_BYTES)?;
    context.zero(&device)?;
    let range = 0..TIMED_BYTES;
    let in_bytes_per_s = time(&context, || context.copy_in(&host, range.clone(), &device, 0))?;
    let out_bytes_per_s =
        time(&context, || context.copy_out(&device, range.clone(), (&mut host, 0)))?;
    Ok(SwapRates { out_bytes_per_s, in_bytes_per_s, flops: REACHED * nominal_flops(&context) })
}

/// Bytes a second of a copy of `TIMED_BYTES` that is made several times, after one that is not
/// timed. Has waited for all of them when it returns.
fn time(context: &Context, mut copy: impl FnMut() -> cuda::Result<()>) -> cuda::Result<f64> {
    copy()?;
    context.synchronize()?;
    let clock = SystemClock::start();
    let start = clock.now();
    for _ in 0..NUM_TIMED {
        copy()?;
    }
    context.synchronize()?;
    let seconds = clock.now().since(start).0.max(1) as f64 * 1e-9;
    Ok((NUM_TIMED * TIMED_BYTES) as f64 / seconds)
}

/// Dense products of 16-bit numbers with sums in single precision, at a usual clock: an H100 has
/// 132 multiprocessors of 4096 operations a cycle.
fn nominal_flops(context: &Context) -> f64 {
    let device = context.device();
    let a_cycle = match device.capability {
        (9.., _) => 4096.0,
        (8, 0) => 2048.0,
        _ => 512.0,
    };
    f64::from(device.num_multiprocessors) * a_cycle * 1.7e9
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H100 on PCIe 5, with the rates that the examples are worked out for: 50 GB/s each way,
    /// and 57 thousand tokens a second of a model of 8 billion weights.
    const H100: SwapRates =
        SwapRates { out_bytes_per_s: 50e9, in_bytes_per_s: 50e9, flops: 57e3 * 2.0 * 8.03e9 };
    /// 32 layers, 8 key/value heads of 128, 16 bits.
    const LLAMA_8B: TokenSize =
        TokenSize { kv_bytes: 32 * 2 * 8 * 128 * 2, num_params: 8_030_000_000 };
    /// Qwen3-0.6B: 28 layers, 8 key/value heads of 128.
    const QWEN3_600M: TokenSize =
        TokenSize { kv_bytes: 28 * 2 * 8 * 128 * 2, num_params: 596_000_000 };

    fn nanoseconds(seconds: f64) -> u64 {
        (seconds * 1e9).round() as u64
    }

    #[test]
    fn a_large_model_is_brought_back_seven_times_as_fast_as_it_is_computed() {
        let recompute = nanoseconds(H100.recompute_seconds(LLAMA_8B));
        assert_eq!(recompute, 17_544);
        let one_way = nanoseconds(H100.swap_seconds(LLAMA_8B) / 2.0);
        assert_eq!(one_way, 2_621);
        assert_eq!((recompute + one_way / 2) / one_way, 7);
        assert!(H100.prefers_swap(LLAMA_8B));
    }

    #[test]
    fn a_small_model_is_computed_again() {
        assert_eq!(nanoseconds(H100.recompute_seconds(QWEN3_600M)), 1_302);
        assert_eq!(nanoseconds(H100.swap_seconds(QWEN3_600M) / 2.0), 2_294);
        assert!(!H100.prefers_swap(QWEN3_600M));
        // Not even if saving cost nothing.
        assert!(!SwapRates { out_bytes_per_s: f64::INFINITY, ..H100 }.prefers_swap(QWEN3_600M));
    }
}
