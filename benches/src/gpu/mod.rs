//! Kernels of a GPU, timed one at a time against the device's own roofs.
//!
//! A time is that of one launch in a long queue of them, so it includes the gap to the next one.
//! Operands are rotated through more memory than any cache holds. The roofs are measured first: a
//! copy of device memory, and a large matrix product. A test runs all of this at tiny sizes on the
//! emulator.

mod attention;
mod products;

use std::time::Instant;

use anyhow::Result;
use folio_kernels::cuda::{
    Context, DeviceBuffer, Element, FillRandom, NormInput, RmsNorm, View, fill_floats, fill_random,
    rms_norm,
};

/// Format of all operands.
pub const ELEMENT: Element = Element::Bf16;

/// How large shapes are, and how often each is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Those of real models, long enough to be timed.
    Full,
    /// Small and once each: to see that everything runs.
    Tiny,
}

/// What one kernel does at one shape.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which kernel.
    pub kernel: String,
    /// At which sizes.
    pub shape: String,
    /// Microseconds of a launch: the fastest of several queues.
    pub micros: f64,
    /// Bytes that it has to move.
    pub bytes: f64,
    /// Operations that it has to do, a multiplication and an addition being two.
    pub flops: f64,
}

/// What a device can do at most, as measured.
#[derive(Clone, Copy, Debug)]
pub struct Roofs {
    /// Bytes read plus bytes written by a copy, per second.
    pub bytes_per_s: f64,
    /// Operations of a large product, per second.
    pub flops_per_s: f64,
}

impl Line {
    /// The share of the roof that binds it, which is the one that takes longer.
    #[must_use]
    pub fn share(&self, roofs: Roofs) -> f64 {
        let floor = (self.bytes / roofs.bytes_per_s).max(self.flops / roofs.flops_per_s);
        floor / (self.micros * 1e-6)
    }

    /// One line of JSON.
    #[must_use]
    pub fn json(&self, roofs: Roofs) -> serde_json::Value {
        let seconds = self.micros * 1e-6;
        serde_json::json!({
            "kernel": self.kernel,
            "shape": self.shape,
            "micros": self.micros,
            "gigabytes_per_s": self.bytes / seconds * 1e-9,
            "tflops": self.flops / seconds * 1e-12,
            "share_of_roof": self.share(roofs),
        })
    }
}

/// What benches work with.
pub struct Bench<'a> {
    context: &'a Context,
    scale: Scale,
    /// Told each line as it is measured.
    on_line: &'a mut dyn FnMut(Line),
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("scale", &self.scale).finish_non_exhaustive()
    }
}

/// Measures the roofs, then everything; `on_line` is told each line with the roofs.
pub fn run(context: &Context, scale: Scale, on_line: &mut dyn FnMut(Line, Roofs)) -> Result<Roofs> {
    let mut roofs = Roofs { bytes_per_s: 1.0, flops_per_s: 1.0 };
    Bench { context, scale, on_line: &mut |_| {} }.roofs(&mut roofs)?;
    let mut bench = Bench { context, scale, on_line: &mut |line| on_line(line, roofs) };
    bench.norms()?;
    bench.products()?;
    bench.decode_attention()?;
    bench.prefill_attention()?;
    Ok(roofs)
}

impl Bench<'_> {
    fn roofs(&mut self, roofs: &mut Roofs) -> Result<()> {
        let num_bytes = self.pick(1 << 30, 1 << 12);
        let source = self.context.allocate(num_bytes)?;
        let target = self.context.allocate(num_bytes)?;
        self.context.zero(&source)?;
        let micros =
            self.micros(|context, _| Ok(context.copy(&source, 0..num_bytes, &target, 0)?))?;
        roofs.bytes_per_s = 2.0 * num_bytes as f64 / (micros * 1e-6);
        let side = self.pick(8192, 64);
        roofs.flops_per_s = self.square_product(side)?;
        Ok(())
    }

    fn norms(&mut self) -> Result<()> {
        for (rows, cols) in self.pick(vec![(1, 4096), (32, 4096), (256, 4096)], vec![(2, 64)]) {
            let matrices = [0, 1, 2].map(|seed| self.random([rows, cols], seed));
            let [residual, delta, output] = matrices;
            let (residual, delta, output) = (residual?, delta?, output?);
            let weight = self.context.allocate(cols * 4)?;
            fill_floats(self.context, weight.ptr(), cols, 1.0)?;
            let view = |buffer: &DeviceBuffer| buffer.view(0, [rows, cols], 2);
            let args = RmsNorm {
                input: NormInput::AddTo { residual: view(&residual), delta: view(&delta) },
                rows: None,
                weight: weight.ptr(),
                epsilon: 1e-5,
                output: view(&output),
                element: ELEMENT,
            };
            let micros = self.micros(|context, _| Ok(rms_norm(context, args)?))?;
            let bytes = (4 * rows * cols * 2 + cols * 4) as f64;
            self.report("add_rms_norm", format!("{rows} x {cols}"), micros, (bytes, 0.0));
        }
        Ok(())
    }

    /// Microseconds of one launch: the fastest of several queues of launches.
    fn micros(&self, mut launch: impl FnMut(&Context, usize) -> Result<()>) -> Result<f64> {
        const MIN_SECONDS: f64 = 0.004;
        if self.scale == Scale::Tiny {
            launch(self.context, 0)?;
            let start = Instant::now();
            self.context.synchronize()?;
            return Ok(start.elapsed().as_secs_f64() * 1e6);
        }
        let (mut num_launches, mut best, mut index) = (4, f64::INFINITY, 0);
        let mut num_queues = 0;
        while num_queues < 6 {
            self.context.synchronize()?;
            let start = Instant::now();
            for _ in 0..num_launches {
                launch(self.context, index)?;
                index += 1;
            }
            self.context.synchronize()?;
            let seconds = start.elapsed().as_secs_f64();
            if seconds < MIN_SECONDS && num_launches < 2048 {
                num_launches *= 2;
                continue;
            }
            best = best.min(seconds / f64::from(num_launches));
            num_queues += 1;
        }
        Ok(best * 1e6)
    }

    fn report(&mut self, kernel: &str, shape: String, micros: f64, (bytes, flops): (f64, f64)) {
        (self.on_line)(Line { kernel: kernel.into(), shape, micros, bytes, flops });
    }

    fn pick<T>(&self, full: T, tiny: T) -> T {
        match self.scale {
            Scale::Full => full,
            Scale::Tiny => tiny,
        }
    }

    /// A matrix of numbers in -1..1.
    fn random(&self, [rows, cols]: [usize; 2], seed: u64) -> Result<DeviceBuffer> {
        let buffer = self.context.allocate(rows * cols * 2)?;
        let output: View = buffer.view(0, [rows, cols], 2);
        fill_random(self.context, FillRandom { output, seed, scale: 1.0, element: ELEMENT })?;
        Ok(buffer)
    }

    fn upload_words(&self, words: &[i32]) -> Result<DeviceBuffer> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(self.context.upload(&bytes)?)
    }
}
