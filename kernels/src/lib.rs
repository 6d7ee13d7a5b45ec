//! Arithmetic on raw buffers: slices in, slices out. Knows nothing of models, requests or
//! scheduling.
//!
//! [`cpu`] holds the SIMD kernels with their thread pool. Every kernel there has a fixed order of
//! accumulation, so one row of a result never depends on what else was computed beside it.
#![allow(
    unsafe_code,
    reason = "SIMD intrinsics and disjoint parallel writes live in this crate only"
)]

pub mod cpu;
pub mod cuda;
pub mod mapped;
