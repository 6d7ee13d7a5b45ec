//! Matrix products by cuBLASLt, where it is installed: plans are made once a shape.
//!
//! Which of the library's algorithms is fastest is measured on the device ([`tune`]), once for all
//! numbers of rows up to the next power of two, and can be kept in a file ([`store`]). A product is
//! then one call: its descriptors and its algorithm are ready.

mod library;
mod plan;
mod store;
mod tune;

use std::collections::HashMap;
use std::path::PathBuf;

use cudarc::cublaslt::sys::{cublasLtMatmulAlgo_t, cudaStream_t};
use cudarc::driver::sys::CUstream;

use self::library::{ALIGNMENT_BYTES, Library};
use self::plan::{Place, Plan};
use self::store::Store;
use super::WORKSPACE_BYTES;
use crate::cuda::driver::{DevicePtr, DriverError, MatmulId, MatmulShape, Result};

pub(super) use self::plan::Pointers;

/// How many of the library's guesses are measured.
const NUM_CANDIDATES: usize = 8;

/// The library with the plans made so far.
#[derive(Debug)]
pub(super) struct CublasLt {
    plans: Vec<(Plan, cublasLtMatmulAlgo_t)>,
    by_shape: HashMap<MatmulShape, Option<MatmulId>>,
    store: Store,
    l2_bytes: usize,
    // Dropped last: plans are of this library.
    library: Library,
}

impl CublasLt {
    /// Finds the library for the current context, or says why there is none. `l2_bytes` is the
    /// size of the device's cache.
    pub(super) fn open(
        device: &str,
        l2_bytes: u32,
        tuning_file: Option<PathBuf>,
    ) -> std::result::Result<Self, String> {
        let library = Library::open()?;
        let store = Store::open(tuning_file, device, library.version);
        Ok(Self {
            plans: Vec::new(),
            by_shape: HashMap::new(),
            store,
            l2_bytes: l2_bytes as usize,
            library,
        })
    }

    /// The library's name and version.
    pub(super) fn version(&self) -> String {
        let version = self.library.version;
        format!("cuBLASLt {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    /// Plans a product; `None` if the library cannot do it. Measures if it may: not while a stream
    /// is being captured, when it takes the library's first guess.
    pub(super) fn prepare(
        &mut self,
        shape: &MatmulShape,
        can_measure: bool,
    ) -> Result<Option<MatmulId>> {
        if let Some(&known) = self.by_shape.get(shape) {
            return Ok(known);
        }
        let id = match self.plan(shape, can_measure)? {
            Some(plan) => {
                self.plans.push(plan);
                Some(MatmulId(self.plans.len() as u32 - 1))
            }
            None => None,
        };
        self.by_shape.insert(*shape, id);
        Ok(id)
    }

    fn plan(
        &mut self,
        shape: &MatmulShape,
        can_measure: bool,
    ) -> Result<Option<(Plan, cublasLtMatmulAlgo_t)>> {
        if [shape.rows, shape.cols, shape.inner].contains(&0) {
            return Ok(None);
        }
        let Some(plan) = Plan::new(shape)? else { return Ok(None) };
        let tuned = self.tuned(&rounded_up(shape), can_measure)?;
        if let Some(algorithm) = tuned.filter(|tuned| plan.accepts(&self.library, tuned)) {
            return Ok(Some((plan, algorithm)));
        }
        let guess = plan.candidates(&self.library, 1).first().map(|first| first.algo);
        Ok(guess.map(|algorithm| (plan, algorithm)))
    }

    /// The fastest algorithm for a shape, from the store or measured now.
    fn tuned(
        &mut self,
        shape: &MatmulShape,
        can_measure: bool,
    ) -> Result<Option<cublasLtMatmulAlgo_t>> {
        if let Some(algorithm) = self.store.get(shape) {
            return Ok(Some(algorithm));
        }
        if !can_measure {
            return Ok(None);
        }
        let Some(plan) = Plan::new(shape)? else { return Ok(None) };
        let candidates = plan.candidates(&self.library, NUM_CANDIDATES);
        let best = match candidates[..] {
            [] => None,
            [only] => Some(only.algo),
            _ => tune::fastest(&self.library, &plan, shape, &candidates, self.l2_bytes),
        };
        if let Some(best) = &best {
            self.store.put(shape, best);
        }
        Ok(best)
    }

    /// Multiplies by a plan.
    ///
    /// # Safety
    /// As for [`Plan::multiply`]; the scratch memory is [`WORKSPACE_BYTES`] long.
    pub(super) unsafe fn multiply(
        &self,
        plan: MatmulId,
        pointers: &Pointers,
        workspace: DevicePtr,
        stream: CUstream,
    ) -> Result<()> {
        let Pointers { input, weight, bias, output } = *pointers;
        for pointer in [input, weight, bias, output] {
            if pointer.0 % u64::from(ALIGNMENT_BYTES) != 0 {
                return Err(DriverError::Failed(format!(
                    "a matrix of a product begins at {:#x}: not at a multiple of {ALIGNMENT_BYTES}",
                    pointer.0
                )));
            }
        }
        let (plan, algorithm) = &self.plans[plan.0 as usize];
        let place = Place { workspace, stream: stream_of(stream) };
        // SAFETY: the caller's promise.
        unsafe { plan.multiply(&self.library, algorithm, pointers, place) }
    }
}

/// The shape that stands for all that have as many rows or, down to half, fewer.
fn rounded_up(shape: &MatmulShape) -> MatmulShape {
    MatmulShape { rows: shape.rows.checked_next_power_of_two().unwrap_or(shape.rows), ..*shape }
}

/// A stream, as the library's binding calls it.
fn stream_of(stream: CUstream) -> cudaStream_t {
    stream.cast()
}
