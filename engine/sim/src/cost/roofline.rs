//! A step's time from a model's sizes and a data sheet: no device is needed.
//!
//! The device either computes or reads, whichever takes longer; launches come on top:
//! `max(2 P T / (F e_f) + 4 L h S / (F e_a), (W + kv (D + C + T)) / (BW e_b))`, and for launches
//! `L o_l + B o_b + o_s`.
//! The output matrix counts for emitting rows only. Good to 20 % where nothing was tuned; for
//! more, fit ([`Fitted`](super::Fitted)).

use folio_engine::types::{BatchShape, CostModel, Nanos};

use super::{Gpu, ModelShape, Precision};

/// How much of a data sheet's rates is reached, and what comes on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Efficiency {
    /// Share of the peak that matrix products reach, `e_f`.
    pub matmul: f64,
    /// Share of the peak that attention over prompts reaches, `e_a`.
    pub attention: f64,
    /// Share of the bandwidth that is reached, `e_b`.
    pub bandwidth: f64,
    /// Seconds for each layer, `o_l`: launches, norms, and what else is small.
    pub layer_s: f64,
    /// Seconds for each sequence, `o_b`: input, sampling.
    pub sequence_s: f64,
    /// Seconds for each step, `o_s`.
    pub step_s: f64,
}

impl Efficiency {
    /// GPUs. Matrix products: 798 of 989 Tflop/s measured for a bf16 product of 8192³ on an H100;
    /// attention: between FlashAttention-2 (35 %) and -3 (up to 75 %) on an H100, arXiv
    /// 2407.08608; bandwidth: a copy at 3.0 of 3.35 TB/s on an H100. Overheads: those that the
    /// BLIS simulator (inference-sim) fitted to vLLM on an H100. Together they put a batch of one
    /// with Llama-3.1-8B at 6.2 ms, where vLLM 0.19.1 measured 6.44 ms.
    pub const GPU: Self = Self {
        matmul: 0.80,
        attention: 0.45,
        bandwidth: 0.90,
        layer_s: 32e-6,
        sequence_s: 4e-6,
        step_s: 126e-6,
    };

    /// Processors: Folio took 25 to 27 s where its peak allows 19 s
    /// (benches/results/2026-11-24-cpu-throughput.md). The shares of attention and bandwidth and
    /// the overheads are guesses: fit where they matter.
    pub const CPU: Self = Self {
        matmul: 0.73,
        attention: 0.20,
        bandwidth: 0.60,
        layer_s: 20e-6,
        sequence_s: 5e-6,
        step_s: 20e-6,
    };
}

/// What the devices that compute a model together can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hardware {
    /// Operations a second of all of them, in the format of the weights.
    pub flops: f64,
    /// Bytes a second from the memories of all of them.
    pub bandwidth: f64,
    /// Bytes of all their memory.
    pub memory_bytes: f64,
    /// Bytes a second between them and the host, one way.
    pub host_bandwidth: f64,
    /// The format of the weights.
    pub precision: Precision,
    /// Bytes of a number in the KV cache.
    pub kv_number_bytes: u64,
}

/// Of all memory, what may be used: vLLM's default, and Folio's.
const MEMORY_SHARE: f64 = 0.9;
/// Of all memory, what activations and workspaces take.
const WORKSPACE_SHARE: f64 = 0.04;

impl Hardware {
    /// `gpu` with weights in `precision`; `None` where it does not compute in that.
    #[must_use]
    pub fn new(gpu: &Gpu, precision: Precision) -> Option<Self> {
        let flops = match precision {
            Precision::Bf16 | Precision::F16 => gpu.flops,
            Precision::Fp8 => gpu.flops_fp8?,
        };
        Some(Self {
            flops,
            bandwidth: gpu.bandwidth,
            memory_bytes: gpu.memory_bytes as f64,
            host_bandwidth: gpu.host_bandwidth,
            precision,
            kv_number_bytes: if gpu.is_cpu() { 4 } else { 2 },
        })
    }

    /// Bytes of a block of `block_size` tokens in `model`'s KV cache.
    #[must_use]
    pub fn block_bytes(&self, model: &ModelShape, block_size: u32) -> f64 {
        model.kv_bytes(self.kv_number_bytes) as f64 * f64::from(block_size)
    }

    /// KV blocks of `block_size` tokens that fit beside `model`'s weights and what computing
    /// takes; 0 where the weights alone are too large.
    #[must_use]
    pub fn num_blocks(&self, model: &ModelShape, block_size: u32) -> u32 {
        let weights = model.weights_bytes(self.precision) as f64;
        let left = self.memory_bytes * (MEMORY_SHARE - WORKSPACE_SHARE) - weights;
        (left / self.block_bytes(model, block_size)).max(0.0) as u32
    }
}

/// Where a step's time goes, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breakdown {
    /// Matrix products.
    pub matmul: f64,
    /// Attention over prompts.
    pub attention: f64,
    /// Reading weights, keys and values.
    pub memory: f64,
    /// Launches, and what each sequence costs.
    pub overhead: f64,
    /// Moving blocks to the host and back.
    pub swap: f64,
}

impl Breakdown {
    /// The step's time: computing and reading overlap, all else adds up.
    #[must_use]
    pub fn total(&self) -> f64 {
        (self.matmul + self.attention).max(self.memory) + self.overhead + self.swap
    }
}

/// The roofline of a model on a device.
#[derive(Clone, Debug)]
pub struct Roofline {
    name: String,
    model: ModelShape,
    hardware: Hardware,
    efficiency: Efficiency,
    block_size: u32,
}

impl Roofline {
    /// `model` on `hardware`, called `name`.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        model: ModelShape,
        hardware: Hardware,
        efficiency: Efficiency,
    ) -> Self {
        Self { name: name.into(), model, hardware, efficiency, block_size: 16 }
    }

    /// The same with KV blocks of `block_size` tokens, which matters to swapping alone.
    #[must_use]
    pub fn with_block_size(self, block_size: u32) -> Self {
        Self { block_size, ..self }
    }

    /// Where the time of a step of this shape goes.
    #[must_use]
    pub fn breakdown(&self, shape: &BatchShape) -> Breakdown {
        if shape.num_seqs == 0 {
            return Breakdown { swap: self.swap_s(shape), ..Breakdown::default() };
        }
        let Self { model, hardware, efficiency, .. } = self;
        let (num_layer_params, num_head_params) =
            (model.num_layer_params as f64, model.num_head_params as f64);
        let num_emitting = f64::from(shape.num_emitting);
        let num_products =
            num_layer_params * f64::from(shape.num_tokens) + num_head_params * num_emitting;
        let num_pairs =
            f64::from(model.num_layers) * f64::from(model.query_width) * shape.prefill_work as f64;
        let head_read = if shape.num_emitting > 0 { num_head_params } else { 0.0 };
        let weights = (num_layer_params + head_read) * hardware.precision.weight_bytes() as f64;
        let num_moved = shape.decode_context + shape.prefill_context + u64::from(shape.num_tokens);
        let kv = model.kv_bytes(hardware.kv_number_bytes) as f64 * num_moved as f64;
        Breakdown {
            matmul: 2.0 * num_products / (hardware.flops * efficiency.matmul),
            attention: 4.0 * num_pairs / (hardware.flops * efficiency.attention),
            memory: (weights + kv) / (hardware.bandwidth * efficiency.bandwidth),
            overhead: f64::from(model.num_layers) * efficiency.layer_s
                + f64::from(shape.num_seqs) * efficiency.sequence_s
                + efficiency.step_s,
            swap: self.swap_s(shape),
        }
    }

    fn swap_s(&self, shape: &BatchShape) -> f64 {
        let block_bytes = self.hardware.block_bytes(&self.model, self.block_size);
        f64::from(shape.num_swapped_blocks) * block_bytes
            / (self.hardware.host_bandwidth * self.efficiency.bandwidth)
    }
}

impl CostModel for Roofline {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        Nanos::from_secs_f64(self.breakdown(shape).total())
    }
}

#[cfg(test)]
mod tests {
    use folio_engine::types::Emission;

    use super::*;

    fn llama_on_h100() -> Roofline {
        let hardware = Hardware::new(&Gpu::named("h100").unwrap(), Precision::Bf16).unwrap();
        let model = ModelShape::find("llama-3.1-8b").unwrap();
        Roofline::new("test", model, hardware, Efficiency::GPU)
    }

    fn close(value: f64, expected: f64) {
        let error = (value / expected - 1.0).abs();
        assert!(error < 1e-6, "{value} is not {expected}");
    }

    /// By hand: 15.01 GB of weights less the 1.05 GB embedding at 3.015 TB/s is 4.978 ms, and the
    /// overheads 32 x 32 + 4 + 126 = 1154 us.
    #[test]
    fn a_batch_of_one_reads_the_weights() {
        let model = llama_on_h100();
        let shape = BatchShape::row(0..1, Emission::Result);
        let breakdown = model.breakdown(&shape);
        let weights = 2.0 * (8_030_261_248.0 - 128_256.0 * 4096.0) + 131_072.0;
        close(breakdown.memory, weights / (3.35e12 * 0.9));
        close(breakdown.overhead, 1154e-6);
        close(breakdown.total(), weights / 3.015e12 + 1154e-6);
    }

    /// vLLM 0.19.1 on an H100: 6.44 ms and 43.7 us for each 1000 tokens of context.
    #[test]
    fn a_batch_of_one_is_near_what_was_measured_elsewhere() {
        let model = llama_on_h100();
        let at = |position: u32| {
            let shape = BatchShape::row(position..position + 1, Emission::Result);
            model.predict(&shape).as_secs_f64()
        };
        assert!((at(256) / 6.45e-3 - 1.0).abs() < 0.06, "{}", at(256));
        let slope = (at(101_000) - at(1000)) / 100_000.0;
        assert!((slope / 43.7e-9 - 1.0).abs() < 0.05, "{slope}");
    }

    /// By hand: 2048 tokens times 6.98 G parameters, one row of the head, and half of 2048² pairs
    /// in 32 layers of width 4096.
    #[test]
    fn a_long_prompt_is_bound_by_its_products() {
        let model = llama_on_h100();
        let breakdown = model.breakdown(&BatchShape::row(0..2048, Emission::Result));
        let layer_params = 8_030_261_248.0 - 2.0 * 128_256.0 * 4096.0;
        let products = 2.0 * (layer_params * 2048.0 + 128_256.0 * 4096.0);
        close(breakdown.matmul, products / (989.4e12 * 0.8));
        let attention = 4.0 * 32.0 * 4096.0 * (2048.0 * 2048.0 / 2.0);
        close(breakdown.attention, attention / (989.4e12 * 0.45));
        assert!(breakdown.memory < breakdown.matmul);
        close(breakdown.total(), breakdown.matmul + breakdown.attention + breakdown.overhead);
    }

    #[test]
    fn a_prompt_that_goes_on_does_not_read_the_head() {
        let model = llama_on_h100();
        let memory = |emission| model.breakdown(&BatchShape::row(0..16, emission)).memory;
        let head = memory(Emission::Result) - memory(Emission::Nothing);
        close(head, 2.0 * 128_256.0 * 4096.0 / (3.35e12 * 0.9));
    }

    /// By hand: (80 GB of 86 % - 16.06 GB) in blocks of 2 MiB.
    #[test]
    fn blocks_fill_the_memory_beside_the_weights() {
        let model = llama_on_h100();
        let num_blocks = model.hardware.num_blocks(&model.model, 16);
        let expected = (80e9 * 0.86 - 16_060_522_496.0) / (16.0 * 131_072.0);
        assert!((f64::from(num_blocks) - expected).abs() <= 1.0, "{num_blocks}");
        let large = ModelShape::find("llama-3-70b").unwrap();
        assert_eq!(model.hardware.num_blocks(&large, 16), 0);
    }

    #[test]
    fn swapping_takes_the_time_of_the_link() {
        let model = llama_on_h100().with_block_size(32);
        let shape = BatchShape { num_swapped_blocks: 10, ..BatchShape::default() };
        close(model.breakdown(&shape).total(), 10.0 * 32.0 * 131_072.0 / (64e9 * 0.9));
    }
}
