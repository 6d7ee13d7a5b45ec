//! CUDA kernels and the seam through which they run: the driver of an NVIDIA GPU, or an emulator.
//!
//! [`Driver`] is the seam. Everything above it (buffers, parameter packing, grids, graphs) is the
//! same for both, so that all of it is tested on machines without a GPU. Each kernel family has one
//! file here, which checks sizes, packs the parameter struct and launches.

mod context;
mod driver;
mod kv_cache;
#[rustfmt::skip]
pub mod params;

pub use context::{
    Context, DeviceBuffer, Element, Epilogue, Launch, OutputElement, Params, PinnedBuffer, View,
};
pub use driver::{
    Command, Device, DevicePtr, Driver, DriverError, EventId, GraphId, KernelId, MatmulId,
    MatmulShape, Memory, Result, StreamId,
};
pub use kv_cache::{KvCacheShape, KvLayer};
