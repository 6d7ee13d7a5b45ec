//! Read-only mappings of weight files.
//!
//! The one place that maps a file, since a mapping is a promise about the world outside: whoever
//! shortens a mapped file makes the next access to the lost part fail with a bus error.

use std::fs::File;
use std::io;

/// A file's content in the address space, read as it is touched.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// The whole content.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// Maps all of `file`, and asks the system to begin to read it ahead of its use.
///
/// The file must not be changed or shortened while the mapping lives; weight files are replaced by
/// renaming, which is safe.
pub fn map(file: &File) -> io::Result<Mapped> {
    // SAFETY: the mapping is private and read-only, and nothing in this process writes to weight
    // files. That no other process changes them in place is the operator's part of the contract.
    let mapped = unsafe { memmap2::Mmap::map(file)? };
    // Advice only: file systems that cannot follow it still serve the pages.
    #[cfg(unix)]
    mapped.advise(memmap2::Advice::WillNeed).ok();
    Ok(Mapped(mapped))
}
