//! A device behind NVIDIA's driver, which is found when the program runs: building and starting
//! need nothing of CUDA.
//!
//! [`NvidiaDriver::open`] says in a sentence why there is no device, and never panics. It loads all
//! kernels and, where the library is there, cuBLASLt. After that a command is one
//! call of the driver: nothing is allocated, looked up by name or tracked.

mod calls;
mod cublaslt;
mod graph;
mod modules;
mod open;

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUevent, CUevent_flags, CUlaunchAttribute,
    CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstream, CUstream_flags,
};

use self::calls::{check, check_memory};
use self::cublaslt::{CublasLt, Pointers};
use self::graph::Graph;
use self::modules::Kernels;
pub use self::modules::{Fatbin, embedded_fatbins};
pub use self::open::{NvidiaOptions, OpenError, Overlap, probe};
use super::driver::{
    Command, Device, DevicePtr, Driver, DriverError, EventId, GraphId, KernelId, MatmulId,
    MatmulShape, Memory, Result, StreamId,
};

/// Scratch memory of cuBLASLt, one for each stream that multiplies.
const WORKSPACE_BYTES: usize = 32 << 20;

/// An NVIDIA device.
#[derive(Debug)]
pub struct NvidiaDriver {
    device: Device,
    handle: CUdevice,
    context: CUcontext,
    /// The attribute that every launch carries, if kernels may overlap.
    overlap: Overlap,
    kernels: Kernels,
    state: Mutex<State>,
}

/// What the driver has made so far, by id.
#[derive(Debug, Default)]
struct State {
    /// The thread that called last, to which the context belongs.
    bound: Option<ThreadId>,
    streams: Vec<Stream>,
    events: Vec<CUevent>,
    graphs: Vec<Graph>,
    num_captures: usize,
    /// The library, or why there is none.
    cublaslt: Option<std::result::Result<CublasLt, String>>,
}

#[derive(Debug)]
struct Stream {
    handle: CUstream,
    workspace: Option<DevicePtr>,
}

// SAFETY: what it holds are names of objects of the driver, which any thread may use; the tables of
// them are behind a lock.
unsafe impl Send for NvidiaDriver {}
// SAFETY: as above.
unsafe impl Sync for NvidiaDriver {}

impl NvidiaDriver {
    /// Opens device `ordinal` with the kernels that are built into the program.
    pub fn open(ordinal: usize) -> std::result::Result<Arc<dyn Driver>, OpenError> {
        Self::open_with(NvidiaOptions::new(ordinal))
    }

    /// Opens a device.
    pub fn open_with(options: NvidiaOptions) -> std::result::Result<Arc<dyn Driver>, OpenError> {
        let (handle, device) = open::find(options.ordinal)?;
        let mut context = ptr::null_mut();
        // SAFETY: writes one handle.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, handle) };
        check("cuDevicePrimaryCtxRetain", result)?;
        // Kernels wait for the one before only in machine code for 9.0; other devices of this age
        // or newer run code that was made without the waiting.
        let overlap = if device.capability == (9, 0) { options.overlap } else { Overlap::Off };
        let mut driver = Self {
            device,
            handle,
            context,
            overlap,
            kernels: Kernels::default(),
            state: Mutex::default(),
        };
        drop(driver.lock()?);
        driver.kernels.load(options.fatbins, driver.device.max_shared_bytes)?;
        let l2_bytes =
            open::attribute(handle, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let cublaslt = CublasLt::open(&driver.device.name, l2_bytes, options.tuning_file);
        driver.lock()?.cublaslt = Some(cublaslt);
        Ok(Arc::new(driver))
    }

    /// The tables, with the device's context bound to this thread.
    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let current = thread::current().id();
        if state.bound != Some(current) {
            // SAFETY: retained for as long as this driver lives.
            check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })?;
            state.bound = Some(current);
        }
        Ok(state)
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// As for [`Driver::enqueue`].
    unsafe fn launch(&self, stream: CUstream, launch: &KernelLaunch<'_>) -> Result<()> {
        let kernel = self.kernels.get(launch.kernel);
        if launch.params.len() != kernel.params_bytes {
            return Err(DriverError::Failed(format!(
                "{} takes {} bytes of parameters and was given {}",
                kernel.name,
                kernel.params_bytes,
                launch.params.len()
            )));
        }
        let mut overlap = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.num_threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: stream,
            attrs: &raw mut overlap,
            numAttrs: u32::from(self.overlap == Overlap::Allowed),
        };
        let mut params: [*mut c_void; 1] = [launch.params.as_ptr().cast_mut().cast()];
        // SAFETY: the driver copies `params_bytes` bytes from the one parameter before it returns;
        // what they point to is the caller's promise.
        let result = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                kernel.function,
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check("cuLaunchKernelEx", result).map_err(|error| {
            let KernelLaunch { grid, num_threads, shared_bytes, .. } = launch;
            DriverError::Failed(format!(
                "{error}; it was {}, grid {grid:?}, {num_threads} threads, {shared_bytes} bytes",
                kernel.name
            ))
        })
    }
}

/// The parts of [`Command::Launch`].
struct KernelLaunch<'a> {
    kernel: KernelId,
    grid: [u32; 3],
    num_threads: u32,
    shared_bytes: u32,
    params: &'a [u8],
}

impl State {
    fn stream(&self, id: StreamId) -> CUstream {
        self.streams[id.0 as usize].handle
    }

    /// Multiplies with a prepared plan.
    ///
    /// # Safety
    /// As for [`Driver::enqueue`].
    unsafe fn multiply(
        &mut self,
        stream: StreamId,
        plan: MatmulId,
        pointers: &Pointers,
    ) -> Result<()> {
        let stream = &mut self.streams[stream.0 as usize];
        let workspace = match stream.workspace {
            Some(workspace) => workspace,
            // Not possible during a capture: the same products run once without one before.
            None => *stream.workspace.insert(allocate(WORKSPACE_BYTES)?),
        };
        match &mut self.cublaslt {
            // SAFETY: the caller's promise; the workspace is the stream's own.
            Some(Ok(library)) => unsafe {
                library.multiply(plan, pointers, workspace, stream.handle)
            },
            _ => Err(DriverError::Failed("a product was never prepared".to_owned())),
        }
    }
}

fn allocate(num_bytes: usize) -> Result<DevicePtr> {
    let mut memory = 0;
    // SAFETY: writes one address.
    let result = unsafe { sys::cuMemAlloc_v2(&raw mut memory, num_bytes) };
    check_memory("cuMemAlloc", result, num_bytes)?;
    Ok(DevicePtr(memory))
}

/// A stream that does not wait for others; the first is the one that computes, before all others.
fn create_stream(num_streams: usize) -> Result<CUstream> {
    let (mut least, mut greatest) = (0, 0);
    // SAFETY: writes two integers.
    let result = unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) };
    check("cuCtxGetStreamPriorityRange", result)?;
    let priority = if num_streams == 0 { greatest } else { least };
    let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
    let mut stream = ptr::null_mut();
    // SAFETY: writes one handle.
    let result = unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority) };
    check("cuStreamCreateWithPriority", result)?;
    Ok(stream)
}

impl Driver for NvidiaDriver {
    fn device(&self) -> &Device {
        &self.device
    }

    fn memory(&self) -> Result<Memory> {
        let _state = self.lock()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(Memory { free_bytes: free as u64, total_bytes: total as u64 })
    }

    fn allocate(&self, num_bytes: usize) -> Result<DevicePtr> {
        let _state = self.lock()?;
        allocate(num_bytes)
    }

    fn allocate_pinned(&self, num_bytes: usize) -> Result<NonNull<u8>> {
        let _state = self.lock()?;
        let mut memory = ptr::null_mut();
        // SAFETY: writes one address. No flags: ordinary cached memory, which the host reads fast.
        let result = unsafe { sys::cuMemHostAlloc(&raw mut memory, num_bytes, 0) };
        check_memory("cuMemHostAlloc", result, num_bytes)?;
        let memory = NonNull::new(memory.cast::<u8>())
            .ok_or_else(|| DriverError::Failed("cuMemHostAlloc gave no address".to_owned()))?;
        // SAFETY: just allocated with this length.
        unsafe { memory.write_bytes(0, num_bytes) };
        Ok(memory)
    }

    unsafe fn free(&self, memory: DevicePtr) {
        if let Ok(_state) = self.lock() {
            // SAFETY: the caller's promise. Nothing can be done about an error.
            let _ = unsafe { sys::cuMemFree_v2(memory.0) };
        }
    }

    unsafe fn free_pinned(&self, memory: NonNull<u8>) {
        if let Ok(_state) = self.lock() {
            // SAFETY: the caller's promise. Nothing can be done about an error.
            let _ = unsafe { sys::cuMemFreeHost(memory.as_ptr().cast()) };
        }
    }

    fn kernel(&self, name: &str) -> Result<KernelId> {
        self.kernels.find(name)
    }

    fn prepare_matmul(&self, shape: &MatmulShape) -> Result<Option<MatmulId>> {
        let mut state = self.lock()?;
        let can_measure = state.num_captures == 0;
        match &mut state.cublaslt {
            Some(Ok(library)) => library.prepare(shape, can_measure),
            _ => Ok(None),
        }
    }

    fn matmul_library(&self) -> std::result::Result<String, String> {
        match &self.state.lock().unwrap_or_else(PoisonError::into_inner).cublaslt {
            Some(Ok(library)) => Ok(library.version()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err("cuBLASLt was not asked for".to_owned()),
        }
    }

    fn create_stream(&self) -> Result<StreamId> {
        let mut state = self.lock()?;
        let handle = create_stream(state.streams.len())?;
        state.streams.push(Stream { handle, workspace: None });
        Ok(StreamId(state.streams.len() as u32 - 1))
    }

    fn create_event(&self) -> Result<EventId> {
        let mut state = self.lock()?;
        let event = create_event(CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        state.events.push(event);
        Ok(EventId(state.events.len() as u32 - 1))
    }

    unsafe fn enqueue(&self, stream: StreamId, command: Command<'_>) -> Result<()> {
        let mut state = self.lock()?;
        let handle = state.stream(stream);
        match command {
            Command::Launch { kernel, grid, num_threads, shared_bytes, params } => {
                let launch = KernelLaunch { kernel, grid, num_threads, shared_bytes, params };
                // SAFETY: the caller's promise.
                unsafe { self.launch(handle, &launch) }
            }
            Command::Matmul { plan, input, weight, bias, output } => {
                let pointers = Pointers { input, weight, bias, output };
                // SAFETY: the caller's promise.
                unsafe { state.multiply(stream, plan, &pointers) }
            }
            Command::CopyIn { to, from, num_bytes } => {
                let from = from.as_ptr().cast::<c_void>();
                // SAFETY: the caller's promise.
                let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from, num_bytes, handle) };
                check("cuMemcpyHtoDAsync", result)
            }
            Command::CopyOut { to, from, num_bytes } => {
                let to = to.as_ptr().cast::<c_void>();
                // SAFETY: the caller's promise.
                let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.0, num_bytes, handle) };
                check("cuMemcpyDtoHAsync", result)
            }
            Command::Copy { to, from, num_bytes } => {
                // SAFETY: the caller's promise.
                let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, num_bytes, handle) };
                check("cuMemcpyDtoDAsync", result)
            }
            Command::Zero { to, num_bytes } => {
                // SAFETY: the caller's promise.
                let result = unsafe { sys::cuMemsetD8Async(to.0, 0, num_bytes, handle) };
                check("cuMemsetD8Async", result)
            }
            Command::Record(event) => {
                let event = state.events[event.0 as usize];
                // SAFETY: both are of this driver.
                check("cuEventRecord", unsafe { sys::cuEventRecord(event, handle) })
            }
            Command::Wait(event) => {
                let event = state.events[event.0 as usize];
                // SAFETY: both are of this driver; there are no flags.
                check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(handle, event, 0) })
            }
            // SAFETY: the caller's promise.
            Command::Replay(graph) => unsafe { state.graphs[graph.0 as usize].launch(handle) },
        }
    }

    fn synchronize(&self, stream: StreamId, until: Option<EventId>) -> Result<()> {
        let state = self.lock()?;
        if let Some(event) = until {
            let event = state.events[event.0 as usize];
            drop(state);
            // SAFETY: events live as long as the driver.
            return check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event) });
        }
        let handle = state.stream(stream);
        drop(state);
        // SAFETY: streams live as long as the driver.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(handle) })
    }

    fn begin_capture(&self, stream: StreamId) -> Result<()> {
        let mut state = self.lock()?;
        graph::begin_capture(state.stream(stream))?;
        state.num_captures += 1;
        Ok(())
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId> {
        let mut state = self.lock()?;
        state.num_captures = state.num_captures.saturating_sub(1);
        let graph = graph::end_capture(state.stream(stream))?;
        state.graphs.push(graph);
        Ok(GraphId(state.graphs.len() as u32 - 1))
    }
}

fn create_event(flags: CUevent_flags) -> Result<CUevent> {
    let mut event = ptr::null_mut();
    // SAFETY: writes one handle.
    let result = unsafe { sys::cuEventCreate(&raw mut event, flags as u32) };
    check("cuEventCreate", result)?;
    Ok(event)
}

impl Drop for NvidiaDriver {
    fn drop(&mut self) {
        let Ok(mut state) = self.lock().map(|mut state| std::mem::take(&mut *state)) else {
            return;
        };
        // SAFETY: everything was made by this driver and is destroyed once, after all work has
        // ended. After a fatal error these calls fail too, and nothing can be done about that.
        unsafe {
            let _ = sys::cuCtxSynchronize();
            state.graphs.clear();
            state.cublaslt = None;
            for event in state.events.drain(..) {
                let _ = sys::cuEventDestroy_v2(event);
            }
            for stream in state.streams.drain(..) {
                let _ = sys::cuStreamDestroy_v2(stream.handle);
                if let Some(workspace) = stream.workspace {
                    let _ = sys::cuMemFree_v2(workspace.0);
                }
            }
        }
        self.kernels.unload();
        // SAFETY: retained once by `open_with`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}
