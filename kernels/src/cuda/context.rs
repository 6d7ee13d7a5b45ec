//! Memory and launches above a [`Driver`]: owned buffers, checked views, typed parameters.
//!
//! A [`View`] is cut from a buffer with its bounds checked, so kernels get addresses of memory that
//! exists. What they find there (token ids, block ids) must be in range: the host wrote it.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Command, Device, DevicePtr, Driver, KernelId, Result, StreamId};

/// Number format of activations, weights and the KV cache on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// The upper half of single precision.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Element {
    /// Bytes of one number.
    pub const NUM_BYTES: usize = 2;

    /// What names of entry points end in.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Number format of a matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputElement {
    /// The format of activations.
    Same,
    /// Single precision, for logits.
    F32,
}

/// What happens to the sums of a matrix product before they are rounded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// A bias per column is added.
    Bias,
    /// A bias per column is added, then GELU by the error function.
    BiasGelu,
    /// A bias per column is added, then GELU by its tanh approximation.
    BiasGeluTanh,
}

/// A matrix in device memory, `[rows, cols]`, row-major with `stride` elements from row to row.
/// The format of its elements is the kernel's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Address of its first element.
    pub ptr: DevicePtr,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next, at least `cols`.
    pub stride: usize,
}

impl View {
    /// Whether rows follow one another without gaps.
    #[must_use]
    pub fn is_dense(self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }
}

/// A parameter struct of a kernel, as `kernels/include/params.h` lays it out.
///
/// # Safety
/// The type is `repr(C)` and generated from that header.
pub unsafe trait Params: Copy {}

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Blocks in x, y and z; nothing is launched when one is 0.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub num_threads: usize,
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: usize,
}

/// A device with its kernels by name and the stream that computes.
#[derive(Clone, Debug)]
pub struct Context {
    driver: Arc<dyn Driver>,
    stream: StreamId,
    kernels: Arc<Mutex<HashMap<String, KernelId>>>,
}

impl Context {
    /// A context on `driver` with a stream of its own.
    pub fn new(driver: Arc<dyn Driver>) -> Result<Self> {
        let stream = driver.create_stream()?;
        Ok(Self { driver, stream, kernels: Arc::default() })
    }

    /// The device's driver.
    #[must_use]
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// What the device is.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.driver.device()
    }

    /// The stream on which kernels are launched.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The kernel `name`, looked up once.
    pub fn kernel(&self, name: &str) -> Result<KernelId> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&kernel) = kernels.get(name) {
            return Ok(kernel);
        }
        let kernel = self.driver.kernel(name)?;
        kernels.insert(name.to_owned(), kernel);
        Ok(kernel)
    }

    /// Launches a kernel on the stream.
    ///
    /// # Safety
    /// The addresses in `params` are valid for what the kernel does with them at these sizes.
    pub unsafe fn launch<P: Params>(
        &self,
        kernel: KernelId,
        launch: Launch,
        params: &P,
    ) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let grid = launch.grid.map(|num_blocks| num_blocks as u32);
        // SAFETY: `P` is a plain struct; the kernel never looks at its padding, if it has any.
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(params).cast::<u8>(), size_of::<P>())
        };
        let command = Command::Launch {
            kernel,
            grid,
            num_threads: launch.num_threads as u32,
            shared_bytes: launch.shared_bytes as u32,
            params: bytes,
        };
        // SAFETY: the caller's promise.
        unsafe { self.driver.enqueue(self.stream, command) }
    }

    /// Waits until everything on the stream has run.
    pub fn synchronize(&self) -> Result<()> {
        self.driver.synchronize(self.stream, None)
    }

    /// Allocates device memory, at least one byte.
    pub fn allocate(&self, num_bytes: usize) -> Result<DeviceBuffer> {
        let num_bytes = num_bytes.max(1);
        let ptr = self.driver.allocate(num_bytes)?;
        Ok(DeviceBuffer { driver: Arc::clone(&self.driver), ptr, num_bytes })
    }

    /// Allocates pinned host memory, zeroed, at least one byte.
    pub fn allocate_pinned(&self, num_bytes: usize) -> Result<PinnedBuffer> {
        let num_bytes = num_bytes.max(1);
        let ptr = self.driver.allocate_pinned(num_bytes)?;
        Ok(PinnedBuffer { driver: Arc::clone(&self.driver), ptr, num_bytes })
    }

    /// Device memory with a copy of `bytes`. Waits for it: for loading and for tests.
    pub fn upload(&self, bytes: &[u8]) -> Result<DeviceBuffer> {
        let buffer = self.allocate(bytes.len())?;
        if let Some(from) = NonNull::new(bytes.as_ptr().cast_mut()) {
            let command = Command::CopyIn { to: buffer.ptr, from, num_bytes: bytes.len() };
            // SAFETY: the buffer is as long as `bytes`, which outlives the wait below.
            unsafe { self.driver.enqueue(self.stream, command)? };
        }
        self.synchronize()?;
        Ok(buffer)
    }

    /// A copy of `num_bytes` at `from`. Waits for all work before it: for tests and rare reads.
    pub fn download(&self, buffer: &DeviceBuffer) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buffer.num_bytes];
        let to = NonNull::from(bytes.as_mut_slice()).cast();
        let command = Command::CopyOut { to, from: buffer.ptr, num_bytes: buffer.num_bytes };
        // SAFETY: both are `num_bytes` long and outlive the wait below.
        unsafe { self.driver.enqueue(self.stream, command)? };
        self.synchronize()?;
        Ok(bytes)
    }
}

/// Device memory that is freed when dropped; the owner synchronises first.
#[derive(Debug)]
pub struct DeviceBuffer {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    num_bytes: usize,
}

impl DeviceBuffer {
    /// Its address.
    #[must_use]
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Its length.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// A dense matrix of elements of `element_bytes` that begins `offset` elements in.
    ///
    /// Panics when it would reach beyond the buffer.
    #[must_use]
    pub fn view(&self, offset: usize, [rows, cols]: [usize; 2], element_bytes: usize) -> View {
        let end = (offset + rows * cols) * element_bytes;
        assert!(
            end <= self.num_bytes,
            "[{rows}, {cols}] at {offset} x {element_bytes} bytes ends at {end} of {}",
            self.num_bytes
        );
        View { ptr: self.ptr.offset(offset * element_bytes), rows, cols, stride: cols }
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by this driver, freed here only.
        unsafe { self.driver.free(self.ptr) };
    }
}

/// Pinned host memory that is freed when dropped.
#[derive(Debug)]
pub struct PinnedBuffer {
    driver: Arc<dyn Driver>,
    ptr: NonNull<u8>,
    num_bytes: usize,
}

// SAFETY: it owns its memory, which is ordinary host memory.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Its address.
    #[must_use]
    pub fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Its bytes. No copy on a stream may be writing them: wait for it first.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated with this length and zeroed.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.num_bytes) }
    }

    /// Its bytes. No copy on a stream may be reading or writing them: wait for it first.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length and zeroed; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.num_bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by this driver, freed here only.
        unsafe { self.driver.free_pinned(self.ptr) };
    }
}
