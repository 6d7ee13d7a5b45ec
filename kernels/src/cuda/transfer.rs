//! Copies between host and device, and the events that tell when they are done.
//!
//! Ranges are checked. What is copied later, in the order of the stream, must stay as it is until
//! an event after it was waited for: whoever owns the buffers sees to that, as it does before it
//! drops them.

use std::ops::Range;
use std::ptr::NonNull;

use super::context::{Context, DeviceBuffer, PinnedBuffer};
use super::driver::{Command, DevicePtr, EventId, GraphId, Result};

impl Context {
    /// Copies a range of pinned memory to the device, `offset` bytes into `to`.
    pub fn copy_in(
        &self,
        from: &PinnedBuffer,
        range: Range<usize>,
        to: &DeviceBuffer,
        offset: usize,
    ) -> Result<()> {
        let source = &from.as_slice()[range];
        let command = Command::CopyIn {
            to: place(to, offset..offset + source.len()),
            from: NonNull::from(source).cast(),
            num_bytes: source.len(),
        };
        // SAFETY: both ranges lie in their buffers, whose owner keeps them until they were copied.
        unsafe { self.driver().enqueue(self.stream(), command) }
    }

    /// Copies a range of device memory to pinned memory, an offset into it.
    pub fn copy_out(
        &self,
        from: &DeviceBuffer,
        range: Range<usize>,
        (to, offset): (&mut PinnedBuffer, usize),
    ) -> Result<()> {
        let target = &mut to.as_mut_slice()[offset..offset + range.len()];
        let command = Command::CopyOut {
            num_bytes: target.len(),
            to: NonNull::from(target).cast(),
            from: place(from, range),
        };
        // SAFETY: as in `copy_in`.
        unsafe { self.driver().enqueue(self.stream(), command) }
    }

    /// Copies a range of a buffer to `offset` in the same buffer; they must not overlap.
    pub fn copy_within(
        &self,
        buffer: &DeviceBuffer,
        range: Range<usize>,
        offset: usize,
    ) -> Result<()> {
        let num_bytes = range.len();
        let distance = range.start.abs_diff(offset);
        assert!(distance >= num_bytes, "{range:?} and {num_bytes} bytes at {offset} overlap");
        let command = Command::Copy {
            to: place(buffer, offset..offset + num_bytes),
            from: place(buffer, range),
            num_bytes,
        };
        // SAFETY: both ranges lie in the buffer and do not overlap.
        unsafe { self.driver().enqueue(self.stream(), command) }
    }

    /// Sets all bytes of a buffer to zero.
    pub fn zero(&self, buffer: &DeviceBuffer) -> Result<()> {
        let command = Command::Zero { to: buffer.ptr(), num_bytes: buffer.num_bytes() };
        // SAFETY: this is the whole buffer.
        unsafe { self.driver().enqueue(self.stream(), command) }
    }

    /// Copies `bytes` into a buffer and waits for it: for loading.
    pub fn write(&self, bytes: &[u8], to: &DeviceBuffer, offset: usize) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let command = Command::CopyIn {
            to: place(to, offset..offset + bytes.len()),
            from: NonNull::from(bytes).cast(),
            num_bytes: bytes.len(),
        };
        // SAFETY: the range lies in the buffer, and `bytes` outlives the wait below.
        unsafe { self.driver().enqueue(self.stream(), command)? };
        self.synchronize()
    }

    /// Copies a range of a buffer into `bytes` and waits for all work before it.
    pub fn read(&self, from: &DeviceBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        if !bytes.is_empty() {
            let command = Command::CopyOut {
                num_bytes: bytes.len(),
                from: place(from, offset..offset + bytes.len()),
                to: NonNull::from(bytes).cast(),
            };
            // SAFETY: as in `write`.
            unsafe { self.driver().enqueue(self.stream(), command)? };
        }
        self.synchronize()
    }

    /// Copies a range of a buffer to `offset` in another one.
    pub fn copy(
        &self,
        from: &DeviceBuffer,
        range: Range<usize>,
        to: &DeviceBuffer,
        offset: usize,
    ) -> Result<()> {
        let command = Command::Copy {
            to: place(to, offset..offset + range.len()),
            num_bytes: range.len(),
            from: place(from, range),
        };
        // SAFETY: both ranges lie in their buffers, which are apart.
        unsafe { self.driver().enqueue(self.stream(), command) }
    }

    /// Launches what a graph holds.
    pub fn replay(&self, graph: GraphId) -> Result<()> {
        // SAFETY: whoever captured the graph keeps the memory that it names.
        unsafe { self.driver().enqueue(self.stream(), Command::Replay(graph)) }
    }

    /// Makes an event.
    pub fn create_event(&self) -> Result<EventId> {
        self.driver().create_event()
    }

    /// Marks this point of the stream.
    pub fn record(&self, event: EventId) -> Result<()> {
        // SAFETY: the command names no memory.
        unsafe { self.driver().enqueue(self.stream(), Command::Record(event)) }
    }

    /// Waits until the stream has passed the latest recording of `event`.
    pub fn wait(&self, event: EventId) -> Result<()> {
        self.driver().synchronize(self.stream(), Some(event))
    }
}

/// Where a range of a buffer begins.
#[track_caller]
fn place(buffer: &DeviceBuffer, range: Range<usize>) -> DevicePtr {
    let num_bytes = buffer.num_bytes();
    assert!(range.start <= range.end && range.end <= num_bytes, "{range:?} of {num_bytes} bytes");
    buffer.ptr().offset(range.start)
}
