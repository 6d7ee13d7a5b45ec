//! The seam to a device: memory, streams, events, graphs and launches.
//!
//! Commands of one stream run in order, later than `enqueue` returns; memory that a command names
//! must stay valid until the stream was synchronised past it. A captured graph replays its
//! commands with the parameters and addresses of the capture.

use std::ptr::NonNull;

/// What a driver call may fail with: a sentence that names the call, and the device's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// The device has no memory left for this many bytes.
    OutOfMemory {
        /// Bytes asked for.
        num_bytes: usize,
    },
    /// Anything else. The device may be unusable from here on.
    Failed(String),
}

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory { num_bytes } => {
                write!(f, "the device has no memory left for {num_bytes} bytes")
            }
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for DriverError {}

/// Result of a driver call.
pub type Result<T> = std::result::Result<T, DriverError>;

/// An address in device memory. Arithmetic on it is in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The null address, for optional arguments of kernels.
    pub const NULL: Self = Self(0);

    /// The address `num_bytes` further on.
    #[must_use]
    pub fn offset(self, num_bytes: usize) -> Self {
        Self(self.0 + num_bytes as u64)
    }

    /// As a pointer, for parameter structs. Not to be read on the host.
    #[must_use]
    pub fn as_ptr<T>(self) -> *const T {
        self.0 as usize as *const T
    }

    /// As a pointer, for parameter structs. Not to be read or written on the host.
    #[must_use]
    pub fn as_mut_ptr<T>(self) -> *mut T {
        self.0 as usize as *mut T
    }
}

/// A kernel that was found by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelId(pub u32);
/// A queue of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u32);
/// A point in a stream that others can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub u32);
/// Captured commands, ready to be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u32);
/// A matrix product that the driver's library has prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulId(pub u32);

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub num_multiprocessors: u32,
    /// Dynamic shared memory that one thread block may use, in bytes.
    pub max_shared_bytes: u32,
}

/// Device memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What can still be allocated.
    pub free_bytes: u64,
    /// What the device has.
    pub total_bytes: u64,
}

/// A matrix product `[rows, inner]` times the transpose of `[cols, inner]`: `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulShape {
    /// Rows of the input and of the output, M.
    pub rows: u32,
    /// Rows of the weight, columns of the output, N.
    pub cols: u32,
    /// Columns of both, K.
    pub inner: u32,
    /// Format of input and weight.
    pub element: super::Element,
    /// Format of the output.
    pub output: super::OutputElement,
    /// What happens to a sum before it is stored.
    pub epilogue: super::Epilogue,
}

/// Something that a stream is to do.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Runs a kernel.
    Launch {
        /// Which.
        kernel: KernelId,
        /// Blocks in x, y and z.
        grid: [u32; 3],
        /// Threads of a block, all in x.
        num_threads: u32,
        /// Dynamic shared memory, in bytes.
        shared_bytes: u32,
        /// The parameter struct, copied by this call.
        params: &'a [u8],
    },
    /// Multiplies matrices with the driver's library.
    Matmul {
        /// Which product, prepared before.
        plan: MatmulId,
        /// `[rows, inner]`, dense.
        input: DevicePtr,
        /// `[cols, inner]`, dense.
        weight: DevicePtr,
        /// `[cols]`, if the epilogue adds it.
        bias: DevicePtr,
        /// `[rows, cols]`, dense.
        output: DevicePtr,
    },
    /// Host memory, which should be pinned, to device memory.
    CopyIn {
        /// Where to.
        to: DevicePtr,
        /// Where from.
        from: NonNull<u8>,
        /// How much.
        num_bytes: usize,
    },
    /// Device memory to host memory, which should be pinned.
    CopyOut {
        /// Where to.
        to: NonNull<u8>,
        /// Where from.
        from: DevicePtr,
        /// How much.
        num_bytes: usize,
    },
    /// Device memory to device memory, not overlapping.
    Copy {
        /// Where to.
        to: DevicePtr,
        /// Where from.
        from: DevicePtr,
        /// How much.
        num_bytes: usize,
    },
    /// Sets bytes to zero.
    Zero {
        /// Where.
        to: DevicePtr,
        /// How many.
        num_bytes: usize,
    },
    /// Marks this point of the stream.
    Record(EventId),
    /// Holds the stream back until the event's latest recording was reached.
    Wait(EventId),
    /// Replays captured commands.
    Replay(GraphId),
}

/// A device that runs kernels. Two implement it: NVIDIA's driver, and the emulator.
///
/// All methods may be called from one thread at a time only; that is the engine's.
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// What the device is.
    fn device(&self) -> &Device;

    /// How much memory it has.
    fn memory(&self) -> Result<Memory>;

    /// Allocates device memory, aligned to 256 bytes, of undefined content.
    fn allocate(&self, num_bytes: usize) -> Result<DevicePtr>;

    /// Allocates pinned host memory, aligned to 64 bytes, zeroed, readable at full speed.
    fn allocate_pinned(&self, num_bytes: usize) -> Result<NonNull<u8>>;

    /// Frees device memory.
    ///
    /// # Safety
    /// `memory` comes from `allocate` of this driver, is freed once, and no command that uses it is
    /// pending or captured for a later replay.
    unsafe fn free(&self, memory: DevicePtr);

    /// Frees pinned memory.
    ///
    /// # Safety
    /// As for `free`, and nobody holds a reference into it.
    unsafe fn free_pinned(&self, memory: NonNull<u8>);

    /// Finds a kernel by the name of its entry point.
    fn kernel(&self, name: &str) -> Result<KernelId>;

    /// Prepares a product with the driver's library; `None` when there is no such library or it
    /// cannot do it, and then the caller has its own kernel.
    fn prepare_matmul(&self, shape: &MatmulShape) -> Result<Option<MatmulId>>;

    /// The library behind [`prepare_matmul`](Self::prepare_matmul), with its version; or why there
    /// is none.
    fn matmul_library(&self) -> std::result::Result<String, String> {
        Err("this device has no library of matrix products".to_owned())
    }

    /// Makes a stream.
    fn create_stream(&self) -> Result<StreamId>;

    /// Makes an event.
    fn create_event(&self) -> Result<EventId>;

    /// Appends a command to a stream.
    ///
    /// # Safety
    /// All memory that the command names, also through the parameter struct, is valid for what it
    /// does until it has run, and for every replay if the stream is being captured.
    unsafe fn enqueue(&self, stream: StreamId, command: Command<'_>) -> Result<()>;

    /// Waits until all commands of a stream have run, or, with an event, those before its latest
    /// recording.
    fn synchronize(&self, stream: StreamId, until: Option<EventId>) -> Result<()>;

    /// From here to [`end_capture`](Self::end_capture), commands of the stream are noted, not run.
    fn begin_capture(&self, stream: StreamId) -> Result<()>;

    /// Ends a capture; what was noted can be replayed any number of times.
    fn end_capture(&self, stream: StreamId) -> Result<GraphId>;
}
