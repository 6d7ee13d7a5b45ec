//! What tests of CUDA kernels share: a device, copies to and from it in a device's number
//! formats, and seeded random numbers.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use folio_emulator::test_driver;
use folio_kernels::cuda::{Context, DeviceBuffer, Element};
use half::{bf16, f16};

/// A context on the device of tests: an emulated one unless a GPU is asked for.
pub(crate) fn context() -> Context {
    Context::new(test_driver()).unwrap()
}

/// The two number formats of the device.
pub(crate) const ELEMENTS: [Element; 2] = [Element::Bf16, Element::F16];

/// `x` rounded to 16 bits and back.
pub(crate) fn round(element: Element, x: f32) -> f32 {
    match element {
        Element::Bf16 => bf16::from_f32(x).to_f32(),
        Element::F16 => f16::from_f32(x).to_f32(),
    }
}

/// All of `values` rounded to 16 bits and back.
pub(crate) fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| round(element, x)).collect()
}

/// Half the distance between 1 and the next number, relative: what one rounding may cost.
pub(crate) fn unit_roundoff(element: Element) -> f64 {
    match element {
        Element::Bf16 => 2f64.powi(-8),
        Element::F16 => 2f64.powi(-11),
    }
}

/// Device memory with `values` rounded to 16 bits.
pub(crate) fn upload(context: &Context, element: Element, values: &[f32]) -> DeviceBuffer {
    let bits = |&x: &f32| match element {
        Element::Bf16 => bf16::from_f32(x).to_bits(),
        Element::F16 => f16::from_f32(x).to_bits(),
    };
    let bytes: Vec<u8> = values.iter().flat_map(|x| bits(x).to_le_bytes()).collect();
    context.upload(&bytes).unwrap()
}

/// Device memory with `values` as they are.
pub(crate) fn upload_f32(context: &Context, values: &[f32]) -> DeviceBuffer {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    context.upload(&bytes).unwrap()
}

/// Device memory with `values` as they are.
pub(crate) fn upload_i32(context: &Context, values: &[i32]) -> DeviceBuffer {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    context.upload(&bytes).unwrap()
}

/// All 16-bit numbers of `buffer`, after everything enqueued so far has run.
pub(crate) fn download(context: &Context, element: Element, buffer: &DeviceBuffer) -> Vec<f32> {
    let bytes = context.download(buffer).unwrap();
    let numbers = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let number = |bits| match element {
        Element::Bf16 => bf16::from_bits(bits).to_f32(),
        Element::F16 => f16::from_bits(bits).to_f32(),
    };
    numbers.map(number).collect()
}

/// All single-precision numbers of `buffer`, after everything enqueued so far has run.
pub(crate) fn download_f32(context: &Context, buffer: &DeviceBuffer) -> Vec<f32> {
    let bytes = context.download(buffer).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// All integers of `buffer`, after everything enqueued so far has run.
pub(crate) fn download_i32(context: &Context, buffer: &DeviceBuffer) -> Vec<i32> {
    let bytes = context.download(buffer).unwrap();
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Random numbers that come again from the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// A number from `low` to below `high`.
    pub(crate) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u64 << 24) as f32;
        low + (high - low) * unit
    }

    /// A number of mean 0 and variance 1, about normal: the sum of twelve uniform ones.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform(0.0, 1.0)).sum::<f32>() - 6.0
    }

    /// `num` numbers as [`normal`](Self::normal) draws them.
    pub(crate) fn normals(&mut self, num: usize) -> Vec<f32> {
        (0..num).map(|_| self.normal()).collect()
    }
}
