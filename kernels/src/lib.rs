//! Arithmetic on raw buffers. Knows nothing of serving: slices in, slices out.
#![allow(unsafe_code, reason = "SIMD intrinsics and disjoint parallel writes live in this crate only")]

pub mod cpu;
pub mod mapped;
