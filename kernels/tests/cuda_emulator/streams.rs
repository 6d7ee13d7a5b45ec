//! Streams, events, graphs and memory: commands run as late as the contract allows, in order.

use std::ptr::NonNull;
use std::sync::Arc;

use folio_emulator::{Emulator, EmulatorOptions};
use folio_kernels::cuda::{Command, Context, DeviceBuffer, Driver, DriverError, Launch, StreamId};

use crate::cuda_common::{context, download_f32, download_i32, upload_i32};
use crate::{Probe, one_block, probe, zeros};

const DOUBLE: &str = "probe_step";

/// Enqueues `x = 2 x + 1` for all ints of a buffer.
fn step(context: &Context, buffer: &DeviceBuffer) {
    let count = (buffer.num_bytes() / 4) as i32;
    let params = Probe { input: buffer.ptr(), output: buffer.ptr(), count, variant: 0 };
    probe(context, DOUBLE, one_block(128, 0), &params).unwrap();
}

fn enqueue(context: &Context, stream: StreamId, command: Command<'_>) {
    // SAFETY: the tests keep their buffers until they have waited.
    unsafe { context.driver().enqueue(stream, command) }.unwrap();
}

fn copy(from: &DeviceBuffer, to: &DeviceBuffer) -> Command<'static> {
    Command::Copy { to: to.ptr(), from: from.ptr(), num_bytes: from.num_bytes() }
}

#[test]
fn commands_run_only_when_somebody_waits() {
    let context = context();
    let device = context.allocate(4).unwrap();
    let mut staging = context.allocate_pinned(4).unwrap();
    staging.as_mut_slice().copy_from_slice(&7i32.to_le_bytes());
    let command = Command::CopyIn { to: device.ptr(), from: staging.ptr(), num_bytes: 4 };
    enqueue(&context, context.stream(), command);
    step(&context, &device);
    // Too early: the copy has not begun.
    staging.as_mut_slice().copy_from_slice(&20i32.to_le_bytes());
    assert_eq!(download_i32(&context, &device), [41]);
}

#[test]
fn pinned_memory_has_its_copy_only_after_the_wait() {
    let context = context();
    let device = upload_i32(&context, &[5]);
    let result = context.allocate_pinned(4).unwrap();
    let command = Command::CopyOut { to: result.ptr(), from: device.ptr(), num_bytes: 4 };
    enqueue(&context, context.stream(), command);
    assert_eq!(result.as_slice(), [0; 4]);
    context.synchronize().unwrap();
    assert_eq!(result.as_slice(), [5, 0, 0, 0]);
}

#[test]
fn a_stream_that_waits_for_an_event_sees_what_came_before_it() {
    for waits in [true, false] {
        let context = context();
        let other = context.driver().create_stream().unwrap();
        let event = context.driver().create_event().unwrap();
        let (source, copied) = (upload_i32(&context, &[3]), context.allocate(4).unwrap());
        step(&context, &source);
        enqueue(&context, context.stream(), Command::Record(event));
        step(&context, &source);
        if waits {
            enqueue(&context, other, Command::Wait(event));
        }
        enqueue(&context, other, copy(&source, &copied));
        context.driver().synchronize(other, None).unwrap();
        let expected = if waits { 7 } else { 3 };
        assert_eq!(download_i32(&context, &copied), [expected], "waits: {waits}");
        assert_eq!(download_i32(&context, &source), [15]);
    }
}

#[test]
fn waiting_for_an_event_runs_what_came_before_its_latest_recording() {
    let context = context();
    let (driver, stream) = (Arc::clone(context.driver()), context.stream());
    let event = driver.create_event().unwrap();
    // Never recorded: nothing to wait for.
    driver.synchronize(stream, Some(event)).unwrap();
    let device = upload_i32(&context, &[0]);
    let result = context.allocate_pinned(4).unwrap();
    let read = || Command::CopyOut { to: result.ptr(), from: device.ptr(), num_bytes: 4 };
    for round in 0..3 {
        step(&context, &device);
        enqueue(&context, stream, read());
        enqueue(&context, stream, Command::Record(event));
        step(&context, &device);
        enqueue(&context, stream, read());
        driver.synchronize(stream, Some(event)).unwrap();
        let num_steps = 2 * round + 1;
        assert_eq!(i32::from(result.as_slice()[0]), (1 << num_steps) - 1, "round {round}");
    }
}

#[test]
fn a_wait_is_for_the_recording_that_was_there_when_it_was_enqueued() {
    let context = context();
    let other = context.driver().create_stream().unwrap();
    let event = context.driver().create_event().unwrap();
    let (source, copied) = (upload_i32(&context, &[1]), context.allocate(4).unwrap());
    step(&context, &source);
    enqueue(&context, context.stream(), Command::Record(event));
    enqueue(&context, other, Command::Wait(event));
    step(&context, &source);
    enqueue(&context, context.stream(), Command::Record(event));
    enqueue(&context, other, copy(&source, &copied));
    context.driver().synchronize(other, None).unwrap();
    assert_eq!(download_i32(&context, &copied), [3]);
}

#[test]
fn a_graph_replays_what_was_captured_in_order() {
    let emulator = Emulator::with(EmulatorOptions::default());
    let context = Context::new(Arc::clone(&emulator) as Arc<dyn Driver>).unwrap();
    let (driver, stream) = (context.driver(), context.stream());
    let (value, kept) = (upload_i32(&context, &[1]), zeros(&context, 4));
    driver.begin_capture(stream).unwrap();
    step(&context, &value);
    enqueue(&context, stream, copy(&value, &kept));
    step(&context, &value);
    let graph = driver.end_capture(stream).unwrap();
    context.synchronize().unwrap();
    assert_eq!(download_i32(&context, &value), [1], "a capture runs nothing");
    for (expected_kept, expected_value) in [(3, 7), (15, 31), (63, 127)] {
        enqueue(&context, stream, Command::Replay(graph));
        assert_eq!(download_i32(&context, &kept), [expected_kept]);
        assert_eq!(download_i32(&context, &value), [expected_value]);
    }
    let counters = emulator.counters();
    assert_eq!(counters.launches[DOUBLE], 6);
    assert_eq!(counters.num_replays, 3);
}

#[test]
fn what_cannot_be_captured_is_refused() {
    let context = context();
    let (driver, stream) = (context.driver(), context.stream());
    assert!(driver.end_capture(stream).is_err());
    let event = driver.create_event().unwrap();
    driver.begin_capture(stream).unwrap();
    assert!(driver.begin_capture(stream).is_err());
    assert!(driver.synchronize(stream, None).is_err());
    // SAFETY: names no memory.
    let recorded = unsafe { driver.enqueue(stream, Command::Record(event)) };
    assert!(recorded.is_err());
    driver.end_capture(stream).unwrap();
    context.synchronize().unwrap();
}

#[test]
fn memory_ends_where_the_options_say() {
    let options = EmulatorOptions { memory_bytes: 1000, ..EmulatorOptions::default() };
    let driver = Emulator::with(options);
    let memory = driver.memory().unwrap();
    assert_eq!((memory.free_bytes, memory.total_bytes), (1000, 1000));
    let first = driver.allocate(600).unwrap();
    assert_eq!(first.0 % 256, 0);
    assert_eq!(driver.memory().unwrap().free_bytes, 400);
    let refused = driver.allocate(401).unwrap_err();
    assert_eq!(refused, DriverError::OutOfMemory { num_bytes: 401 });
    let second = driver.allocate(400).unwrap();
    // SAFETY: nothing uses them.
    unsafe {
        driver.free(first);
        driver.free(second);
    }
    driver.allocate(1000).unwrap();
}

#[test]
fn copies_stay_within_one_allocation() {
    let context = context();
    let (small, large) = (context.allocate(16).unwrap(), context.allocate(32).unwrap());
    let command = Command::Copy { to: small.ptr(), from: large.ptr(), num_bytes: 32 };
    enqueue(&context, context.stream(), command);
    let message = context.synchronize().unwrap_err().to_string();
    assert!(message.contains("copy to") && message.contains("16 bytes"), "{message}");
}

#[test]
fn zeroing_and_copying_change_what_they_name_and_no_more() {
    let context = context();
    let buffer = upload_i32(&context, &[1, 2, 3, 4, 5, 6]);
    let zero = Command::Zero { to: buffer.ptr().offset(4), num_bytes: 8 };
    enqueue(&context, context.stream(), zero);
    let copy = Command::Copy { to: buffer.ptr(), from: buffer.ptr().offset(16), num_bytes: 8 };
    enqueue(&context, context.stream(), copy);
    assert_eq!(download_i32(&context, &buffer), [5, 6, 0, 4, 5, 6]);
}

#[test]
fn a_stream_or_event_that_is_not_there_is_an_error() {
    let driver = Emulator::new();
    assert!(driver.synchronize(StreamId(0), None).is_err());
    let stream = driver.create_stream().unwrap();
    let to = NonNull::<u8>::dangling();
    let from = driver.allocate(4).unwrap().offset(400);
    // SAFETY: fails before it copies.
    unsafe { driver.enqueue(stream, Command::CopyOut { to, from, num_bytes: 4 }) }.unwrap();
    assert!(driver.synchronize(stream, None).is_err());
}

#[test]
fn a_launch_of_no_blocks_does_nothing() {
    let context = context();
    let output = zeros(&context, 4);
    let launch = Launch { grid: [0, 1, 1], num_threads: 32, shared_bytes: 0 };
    let params = Probe { input: output.ptr(), output: output.ptr(), count: 1, variant: 0 };
    probe(&context, DOUBLE, launch, &params).unwrap();
    assert_eq!(download_f32(&context, &output), [0.0]);
}
