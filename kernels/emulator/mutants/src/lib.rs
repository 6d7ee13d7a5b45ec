//! Copies of Folio's CUDA kernels with one bug planted in each, compiled into the emulator beside
//! the originals. A test runs the kernels' own checks on each and wants them to fail.

mod table;

pub use table::{MUTANTS, Mutant};

// The emulator's C++ half is what the mutants run on.
use folio_emulator as _;
