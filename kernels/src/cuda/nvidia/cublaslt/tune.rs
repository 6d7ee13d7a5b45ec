//! Which of the library's guesses is fastest on this device.
//!
//! Each guess is captured several times into a graph, so that no time of the host is in the figure,
//! and reads another copy of the weight each time, so that the device's cache does not flatter it:
//! in a model, other weights were read in between. Only the order of the guesses matters here.

use std::ptr;

use cudarc::cublaslt::sys::{cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t};
use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUstream};

use super::library::Library;
use super::plan::{Place, Plan, Pointers};
use super::{WORKSPACE_BYTES, stream_of};
use crate::cuda::context::OutputElement;
use crate::cuda::driver::{DevicePtr, MatmulShape, Result};
use crate::cuda::nvidia::calls::check;
use crate::cuda::nvidia::{allocate, create_event, graph};

/// What one graph should take, by a rough estimate, and how often it is replayed.
const GRAPH_SECONDS: f64 = 1e-3;
const NUM_REPLAYS: usize = 3;
/// Rough speed of a device, for that estimate.
const FLOPS: f64 = 3e14;
const BYTES_PER_SECOND: f64 = 2e12;
const MAX_WEIGHTS: usize = 16;
/// Both halves make small positive numbers as bf16 and as f16.
const FILLING: u8 = 0x3c;

/// The fastest of several candidates; `None` where there is no memory to measure in.
pub(super) fn fastest(
    library: &Library,
    plan: &Plan,
    shape: &MatmulShape,
    candidates: &[cublasLtMatmulHeuristicResult_t],
    l2_bytes: usize,
) -> Option<cublasLtMatmulAlgo_t> {
    let bench = Bench::new(shape, l2_bytes).ok()?;
    let mut best = (f32::INFINITY, None);
    for candidate in candidates {
        // One that fails is none.
        let time = bench.measure(library, plan, &candidate.algo).unwrap_or(f32::INFINITY);
        if time < best.0 {
            best = (time, Some(candidate.algo));
        }
    }
    best.1
}

/// Matrices, a stream and two events to measure with; freed when dropped.
#[derive(Debug)]
struct Bench {
    memory: DevicePtr,
    weight_bytes: usize,
    num_weights: usize,
    input: DevicePtr,
    output: DevicePtr,
    workspace: DevicePtr,
    num_repeats: usize,
    stream: CUstream,
    events: [CUevent; 2],
}

impl Bench {
    fn new(shape: &MatmulShape, l2_bytes: usize) -> Result<Self> {
        let [rows, cols, inner] = [shape.rows, shape.cols, shape.inner].map(|size| size as usize);
        let weight_bytes = aligned(cols * inner * 2);
        let input_bytes = aligned(rows * inner * 2);
        let output_bytes = match shape.output {
            OutputElement::Same => aligned(rows * cols * 2),
            OutputElement::F32 => aligned(rows * cols * 4),
        };
        let fixed_bytes = input_bytes + output_bytes + WORKSPACE_BYTES;
        let wanted = (3 * l2_bytes).div_ceil(weight_bytes).clamp(1, MAX_WEIGHTS);
        // At most half of what is free, so that nobody else goes without.
        let room = (free_bytes()? / 2).saturating_sub(fixed_bytes);
        let num_weights = wanted.min(room / weight_bytes).max(1);
        let num_bytes = num_weights * weight_bytes + fixed_bytes;
        let memory = allocate(num_bytes)?;
        let input = memory.offset(num_weights * weight_bytes);
        let mut bench = Self {
            memory,
            weight_bytes,
            num_weights,
            input,
            output: input.offset(input_bytes),
            workspace: input.offset(input_bytes + output_bytes),
            num_repeats: num_repeats(rows, cols, inner),
            stream: ptr::null_mut(),
            events: [ptr::null_mut(); 2],
        };
        // From here on, what was made is freed by `drop`, whatever fails.
        bench.stream = crate::cuda::nvidia::create_stream(0)?;
        for event in &mut bench.events {
            *event = create_event(CUevent_flags::CU_EVENT_DEFAULT)?;
        }
        // SAFETY: within the allocation.
        let result = unsafe { sys::cuMemsetD8Async(memory.0, FILLING, num_bytes, bench.stream) };
        check("cuMemsetD8Async", result)?;
        Ok(bench)
    }

    /// Milliseconds that the graph of an algorithm takes.
    fn measure(
        &self,
        library: &Library,
        plan: &Plan,
        algorithm: &cublasLtMatmulAlgo_t,
    ) -> Result<f32> {
        let place = Place { workspace: self.workspace, stream: stream_of(self.stream) };
        // Once by itself: the first use of an algorithm may load code, which a capture cannot.
        // SAFETY: all matrices lie in the allocation and outlive the waiting below.
        unsafe { plan.multiply(library, algorithm, &self.pointers(0), place)? };
        graph::begin_capture(self.stream)?;
        let mut status = Ok(());
        for repeat in 0..self.num_repeats {
            if status.is_ok() {
                // SAFETY: as above.
                status =
                    unsafe { plan.multiply(library, algorithm, &self.pointers(repeat), place) };
            }
        }
        // Ended in any case: the stream is used again.
        let graph = graph::end_capture(self.stream)?;
        status?;
        let mut fastest = f32::INFINITY;
        for _ in 0..NUM_REPLAYS {
            let [start, end] = self.events;
            let mut time = 0.0;
            // SAFETY: the graph's matrices are alive, and so are stream and events.
            unsafe {
                check("cuEventRecord", sys::cuEventRecord(start, self.stream))?;
                graph.launch(self.stream)?;
                check("cuEventRecord", sys::cuEventRecord(end, self.stream))?;
                check("cuEventSynchronize", sys::cuEventSynchronize(end))?;
                let result = sys::cuEventElapsedTime_v2(&raw mut time, start, end);
                check("cuEventElapsedTime", result)?;
            }
            fastest = fastest.min(time);
        }
        Ok(fastest)
    }

    /// The matrices, with another copy of the weight each time. The first weight serves as the
    /// bias too: it is at least as long.
    fn pointers(&self, repeat: usize) -> Pointers {
        Pointers {
            input: self.input,
            weight: self.memory.offset(repeat % self.num_weights * self.weight_bytes),
            bias: self.memory,
            output: self.output,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, after all work on them has ended; null where that
        // was cut short.
        unsafe {
            if !self.stream.is_null() {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            for event in self.events {
                if !event.is_null() {
                    let _ = sys::cuEventDestroy_v2(event);
                }
            }
            let _ = sys::cuMemFree_v2(self.memory.0);
        }
    }
}

/// How many products make a graph of about [`GRAPH_SECONDS`].
fn num_repeats(rows: usize, cols: usize, inner: usize) -> usize {
    let flops = 2.0 * rows as f64 * cols as f64 * inner as f64;
    let bytes = 2.0 * (rows * inner + cols * inner + rows * cols) as f64;
    let seconds = (flops / FLOPS).max(bytes / BYTES_PER_SECOND) + 2e-6;
    ((GRAPH_SECONDS / seconds) as usize).clamp(2, 64)
}

fn aligned(num_bytes: usize) -> usize {
    num_bytes.next_multiple_of(256)
}

fn free_bytes() -> Result<usize> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two integers.
    check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
    Ok(free)
}
