//! What data sheets say of devices. Rates are those of dense matrices, without sparsity.

/// What a data sheet says of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// Its name in specifications.
    pub name: &'static str,
    /// Operations a second in 16 bits with sums in single precision; a multiplication and an
    /// addition are two.
    pub flops: f64,
    /// The same in 8 bits, where the device has them.
    pub flops_fp8: Option<f64>,
    /// Bytes a second from its memory.
    pub bandwidth: f64,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes a second between it and the host, one way.
    pub host_bandwidth: f64,
    /// Where the figures are from.
    pub source: &'static str,
}

/// The devices that are known by name.
pub const GPUS: [Gpu; 5] = [
    Gpu {
        name: "h100",
        flops: 989.4e12,
        flops_fp8: Some(1978.9e12),
        bandwidth: 3.35e12,
        memory_bytes: 80_000_000_000,
        host_bandwidth: 64e9,
        source: "NVIDIA H100 Tensor Core GPU data sheet, SXM5",
    },
    Gpu {
        name: "h200",
        flops: 989.4e12,
        flops_fp8: Some(1978.9e12),
        bandwidth: 4.8e12,
        memory_bytes: 141_000_000_000,
        host_bandwidth: 64e9,
        source: "NVIDIA H200 Tensor Core GPU data sheet, SXM",
    },
    Gpu {
        name: "a100-80g",
        flops: 312e12,
        flops_fp8: None,
        bandwidth: 2.039e12,
        memory_bytes: 80_000_000_000,
        host_bandwidth: 32e9,
        source: "NVIDIA A100 Tensor Core GPU data sheet, 80GB SXM",
    },
    Gpu {
        name: "l4",
        flops: 121e12,
        flops_fp8: Some(242.5e12),
        bandwidth: 0.3e12,
        memory_bytes: 24_000_000_000,
        host_bandwidth: 32e9,
        source: "NVIDIA L4 Tensor Core GPU data sheet",
    },
    // Two cores of a Zen 4 server: the peak that benches/benches/gemm measured; the bandwidth is a
    // guess between what one and two busy cores read. Give `flops=` and `bandwidth=` for another.
    Gpu {
        name: "cpu",
        flops: 236e9,
        flops_fp8: None,
        bandwidth: 20e9,
        memory_bytes: 8_000_000_000,
        host_bandwidth: 20e9,
        source: "peak measured, bandwidth assumed: two cores of an AMD EPYC (Zen 4)",
    },
];

impl Gpu {
    /// The device called `name`; capital letters do not matter.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        GPUS.into_iter().find(|gpu| gpu.name == name)
    }

    /// Whether it is a processor: it computes in single precision on weights of 16 bits.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }
}

/// The number format of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The upper half of single precision.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Eight bits, weights and activations; keys and values stay at 16.
    Fp8,
}

impl Precision {
    /// All, by their names in specifications.
    pub const NAMES: [(&'static str, Self); 3] =
        [("bf16", Self::Bf16), ("f16", Self::F16), ("fp8", Self::Fp8)];

    /// Bytes of a weight.
    #[must_use]
    pub fn weight_bytes(self) -> u64 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Fp8 => 1,
        }
    }
}
