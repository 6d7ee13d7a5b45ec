//! Device memory: host memory between guard zones, filled with NaN when it is allocated.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;

use folio_kernels::cuda::{DevicePtr, DriverError, Memory, Result};

use crate::machine::Range;

const ALIGNMENT: usize = 256;
const PINNED_ALIGNMENT: usize = 64;
/// Bytes of the zones before and after an allocation.
const GUARD_BYTES: usize = 1024;
const GUARD: u8 = 0xcb;
const POISON: u8 = 0xff;

/// All allocations of a device, by address.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    total_bytes: usize,
    used_bytes: usize,
    allocations: BTreeMap<u64, usize>,
    pinned: BTreeMap<usize, usize>,
    /// What kernels check addresses against: `allocations` in order.
    ranges: Vec<Range>,
}

impl DeviceMemory {
    pub(crate) fn new(total_bytes: usize) -> Self {
        Self {
            total_bytes,
            used_bytes: 0,
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            ranges: Vec::new(),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory {
            free_bytes: (self.total_bytes - self.used_bytes) as u64,
            total_bytes: self.total_bytes as u64,
        }
    }

    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    pub(crate) fn allocate(&mut self, num_bytes: usize) -> Result<DevicePtr> {
        let out_of_memory = DriverError::OutOfMemory { num_bytes };
        if num_bytes == 0 {
            return Err(DriverError::Failed("allocate: 0 bytes".to_owned()));
        }
        if num_bytes > self.total_bytes - self.used_bytes {
            return Err(out_of_memory);
        }
        // SAFETY: the layout is not empty; all of it is written below.
        let base = unsafe { alloc(guarded_layout(num_bytes)) };
        if base.is_null() {
            return Err(out_of_memory);
        }
        // SAFETY: the three parts make up the layout.
        unsafe {
            base.write_bytes(GUARD, GUARD_BYTES);
            base.add(GUARD_BYTES).write_bytes(POISON, num_bytes);
            base.add(GUARD_BYTES + num_bytes).write_bytes(GUARD, GUARD_BYTES);
        }
        let begin = base as u64 + GUARD_BYTES as u64;
        self.allocations.insert(begin, num_bytes);
        self.used_bytes += num_bytes;
        self.list_ranges();
        Ok(DevicePtr(begin))
    }

    /// Frees what `allocate` gave.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn free(&mut self, memory: DevicePtr) {
        let Some(num_bytes) = self.allocations.remove(&memory.0) else { return };
        self.used_bytes -= num_bytes;
        self.list_ranges();
        let base = (memory.0 as usize - GUARD_BYTES) as *mut u8;
        // SAFETY: allocated with this layout.
        unsafe { dealloc(base, guarded_layout(num_bytes)) };
    }

    pub(crate) fn allocate_pinned(&mut self, num_bytes: usize) -> Result<NonNull<u8>> {
        if num_bytes == 0 {
            return Err(DriverError::Failed("allocate_pinned: 0 bytes".to_owned()));
        }
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(pinned_layout(num_bytes)) };
        let memory = NonNull::new(memory).ok_or(DriverError::OutOfMemory { num_bytes })?;
        self.pinned.insert(memory.as_ptr() as usize, num_bytes);
        Ok(memory)
    }

    /// Frees what `allocate_pinned` gave.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn free_pinned(&mut self, memory: NonNull<u8>) {
        let Some(num_bytes) = self.pinned.remove(&(memory.as_ptr() as usize)) else { return };
        // SAFETY: allocated with this layout.
        unsafe { dealloc(memory.as_ptr(), pinned_layout(num_bytes)) };
    }

    /// The bytes at `at`, if they lie in one allocation.
    pub(crate) fn check(&self, at: DevicePtr, num_bytes: usize) -> std::result::Result<(), String> {
        let found = self.allocations.range(..=at.0).next_back();
        match found {
            Some((&begin, &length)) if at.0 - begin + num_bytes as u64 <= length as u64 => Ok(()),
            Some((&begin, &length)) => Err(format!(
                "{num_bytes} bytes at {:#x} are not in device memory; the allocation before has \
                 {length} bytes and begins {} bytes lower",
                at.0,
                at.0 - begin
            )),
            None => Err(format!("{num_bytes} bytes at {:#x} are below device memory", at.0)),
        }
    }

    /// What was written beyond an allocation, if anything was.
    pub(crate) fn check_guards(&self) -> std::result::Result<(), String> {
        for (&begin, &num_bytes) in &self.allocations {
            // SAFETY: the zones on both sides of an allocation.
            let (before, after) = unsafe {
                let begin = begin as usize as *const u8;
                (
                    std::slice::from_raw_parts(begin.sub(GUARD_BYTES), GUARD_BYTES),
                    std::slice::from_raw_parts(begin.add(num_bytes), GUARD_BYTES),
                )
            };
            if let Some(at) = after.iter().position(|&byte| byte != GUARD) {
                return Err(format!(
                    "a write {at} bytes past the end of an allocation of {num_bytes} bytes"
                ));
            }
            if let Some(at) = before.iter().rposition(|&byte| byte != GUARD) {
                let distance = GUARD_BYTES - at;
                return Err(format!(
                    "a write {distance} bytes before an allocation of {num_bytes} bytes"
                ));
            }
        }
        Ok(())
    }

    fn list_ranges(&mut self) {
        let ranges = self.allocations.iter();
        self.ranges = ranges.map(|(&begin, &len)| Range { begin, num_bytes: len as u64 }).collect();
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        for begin in self.allocations.clone().into_keys() {
            // SAFETY: the device is gone, and nobody can reach its memory.
            unsafe { self.free(DevicePtr(begin)) };
        }
        for memory in self.pinned.clone().into_keys() {
            if let Some(memory) = NonNull::new(memory as *mut u8) {
                // SAFETY: as above.
                unsafe { self.free_pinned(memory) };
            }
        }
    }
}

fn guarded_layout(num_bytes: usize) -> Layout {
    layout(num_bytes + 2 * GUARD_BYTES, ALIGNMENT)
}

fn pinned_layout(num_bytes: usize) -> Layout {
    layout(num_bytes, PINNED_ALIGNMENT)
}

fn layout(num_bytes: usize, alignment: usize) -> Layout {
    match Layout::from_size_align(num_bytes, alignment) {
        Ok(layout) => layout,
        Err(error) => unreachable!("{num_bytes} bytes aligned to {alignment}: {error}"),
    }
}
