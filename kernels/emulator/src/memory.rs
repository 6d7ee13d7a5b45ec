//! Device memory: host memory that ends where pages begin that nobody may touch, filled with NaN
//! when it is allocated. What was freed cannot be touched either, for a while.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;

use folio_kernels::cuda::{DevicePtr, DriverError, Memory, Result};

use crate::machine::{Pages, Range};

const ALIGNMENT: usize = 256;
const PINNED_ALIGNMENT: usize = 64;
/// How many freed allocations stay out of reach before their addresses may come again.
const MAX_CLOSED: usize = 64;
const GUARD: u8 = 0xcb;
const POISON: u8 = 0xff;

/// From `first page | guard | num_bytes | guard` to the end of the last page.
#[derive(Debug)]
struct Allocation {
    num_bytes: usize,
    pages: Pages,
}

/// All allocations of a device, by address.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    total_bytes: usize,
    used_bytes: usize,
    allocations: BTreeMap<u64, Allocation>,
    closed: VecDeque<Pages>,
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
            closed: VecDeque::new(),
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
        let padded = num_bytes.next_multiple_of(ALIGNMENT);
        let pages = Pages::map(padded + ALIGNMENT).ok_or(out_of_memory)?;
        let begin = pages.end() - padded as u64;
        // SAFETY: the last `padded` bytes of the pages, and as many before them as a guard has.
        unsafe {
            let data = begin as usize as *mut u8;
            data.sub(ALIGNMENT).write_bytes(GUARD, ALIGNMENT);
            data.write_bytes(POISON, num_bytes);
            data.add(num_bytes).write_bytes(GUARD, padded - num_bytes);
        }
        self.allocations.insert(begin, Allocation { num_bytes, pages });
        self.used_bytes += num_bytes;
        self.list_ranges();
        Ok(DevicePtr(begin))
    }

    /// Frees what `allocate` gave.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn free(&mut self, memory: DevicePtr) {
        let Some(allocation) = self.allocations.remove(&memory.0) else { return };
        self.used_bytes -= allocation.num_bytes;
        self.list_ranges();
        // SAFETY: the caller's promise.
        unsafe { allocation.pages.close() };
        self.closed.push_back(allocation.pages);
        if self.closed.len() > MAX_CLOSED {
            self.closed.pop_front();
        }
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
            Some((&begin, found)) if at.0 - begin + num_bytes as u64 <= found.num_bytes as u64 => {
                Ok(())
            }
            Some((&begin, found)) => Err(format!(
                "{num_bytes} bytes at {:#x} are not in device memory; the allocation before has {} \
                 bytes and begins {} bytes lower",
                at.0,
                found.num_bytes,
                at.0 - begin
            )),
            None => Err(format!("{num_bytes} bytes at {:#x} are below device memory", at.0)),
        }
    }

    /// What was written beyond an allocation, if anything was.
    pub(crate) fn check_guards(&self) -> std::result::Result<(), String> {
        for (&begin, allocation) in &self.allocations {
            let num_bytes = allocation.num_bytes;
            let num_after = (allocation.pages.end() - begin) as usize - num_bytes;
            // SAFETY: the zones on both sides of an allocation.
            let (before, after) = unsafe {
                let begin = begin as usize as *const u8;
                (
                    std::slice::from_raw_parts(begin.sub(ALIGNMENT), ALIGNMENT),
                    std::slice::from_raw_parts(begin.add(num_bytes), num_after),
                )
            };
            if let Some(at) = after.iter().position(|&byte| byte != GUARD) {
                return Err(format!(
                    "a write {at} bytes past the end of an allocation of {num_bytes} bytes"
                ));
            }
            if let Some(at) = before.iter().rposition(|&byte| byte != GUARD) {
                let distance = ALIGNMENT - at;
                return Err(format!(
                    "a write {distance} bytes before an allocation of {num_bytes} bytes"
                ));
            }
        }
        Ok(())
    }

    fn list_ranges(&mut self) {
        let ranges = self.allocations.iter();
        let range = |(&begin, allocation): (&u64, &Allocation)| Range {
            begin,
            num_bytes: allocation.num_bytes as u64,
        };
        self.ranges = ranges.map(range).collect();
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        for &memory in self.pinned.clone().keys() {
            if let Some(memory) = NonNull::new(memory as *mut u8) {
                // SAFETY: the device is gone, and nobody can reach its memory.
                unsafe { self.free_pinned(memory) };
            }
        }
    }
}

fn pinned_layout(num_bytes: usize) -> Layout {
    match Layout::from_size_align(num_bytes, PINNED_ALIGNMENT) {
        Ok(layout) => layout,
        Err(error) => unreachable!("{num_bytes} bytes of pinned memory: {error}"),
    }
}
