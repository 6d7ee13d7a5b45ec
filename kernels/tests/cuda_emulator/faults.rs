//! Every kind of fault that the emulator finds: the launch fails, says where and why, and the
//! device is unusable from there on, as a real one is.

use folio_kernels::cuda::{Context, DevicePtr, DriverError};

use crate::cuda_common::{context, download_f32, upload_f32};
use crate::{Probe, one_block, probe, zeros};

/// Runs `fault_<name>` with one block of so many threads; how the wait for it ends.
fn run(context: &Context, name: &str, num_threads: usize, count: i32) -> Result<(), DriverError> {
    let input = upload_f32(context, &[1.0; 64]);
    let output = zeros(context, 256);
    let params = Probe { input: input.ptr(), output: output.ptr(), count, variant: 0 };
    probe(context, &format!("fault_{name}"), one_block(num_threads, 256), &params).unwrap();
    context.synchronize()
}

/// That `fault_<name>` fails with a message that holds all of `words`.
fn assert_found(name: &str, num_threads: usize, count: i32, words: &[&str]) {
    let context = context();
    let Err(DriverError::Failed(message)) = run(&context, name, num_threads, count) else {
        panic!("{name} was not found");
    };
    let kernel = format!("kernel fault_{name}");
    for word in words.iter().chain([&kernel.as_str(), &"seed"]) {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    // The device stays failed, and says why.
    assert_eq!(context.allocate(1).unwrap_err(), DriverError::Failed(message.clone()));
    assert_eq!(context.synchronize().unwrap_err(), DriverError::Failed(message));
}

#[test]
fn threads_that_do_not_meet() {
    assert_found("barriers_differ", 64, 0, &["__syncthreads at", "faults.cu", "while thread"]);
    assert_found("barrier_in_part_of_a_warp", 64, 0, &["deadlock", "16 lanes", "__shfl_xor_sync"]);
    assert_found("shuffle_in_part_of_a_warp", 64, 0, &["returned", "__shfl_xor_sync"]);
    assert_found("shuffle_after_return", 64, 0, &["waits for lane 5, which has returned"]);
    assert_found("collectives_differ", 64, 0, &["diverged", "__shfl_sync", "__any_sync"]);
    assert_found("lane_outside_its_mask", 64, 0, &["outside its own mask", "lane", "__any_sync"]);
    assert_found("deadlock_of_halves", 64, 0, &["__syncwarp", "0x0001ffff", "0xffff8000"]);
    assert_found("never_waits", 64, 0, &["none of its threads called wait_for_previous_kernel"]);
    assert_found("mma_in_part_of_a_warp", 48, 0, &["mma.bf16", "fewer than 32 threads", "warp 1"]);
}

#[test]
fn copies_in_the_background() {
    assert_found("copy_beyond_shared", 64, 0, &["cp.async", "outside the 256 bytes of shared"]);
    assert_found("copy_to_odd_address", 64, 0, &["cp.async", "offset 8", "no multiple of 16"]);
    assert_found("copy_from_beyond", 64, 0, &["offset 256 of an allocation of 256 bytes"]);
    assert_found("copy_from_odd_address", 64, 0, &["cp.async", "misaligned"]);
    assert_found("copy_left_under_way", 64, 0, &["returned while a cp.async"]);
    assert_found("ldmatrix_beyond_shared", 64, 0, &["ldmatrix", "outside the 256 bytes"]);
}

#[test]
fn accesses_out_of_bounds() {
    assert_found("shared_overrun", 64, 0, &["0 bytes past the end of its 256 bytes of shared"]);
    assert_found("shared_overrun", 64, 77, &["77 bytes past the end of its 256 bytes of shared"]);
    assert_found("shared_far_overrun", 64, 0, &["of 256 bytes of shared memory"]);
    assert_found("output_overrun", 64, 0, &["offset 256 of an allocation of 256 bytes"]);
    assert_found("output_overrun", 64, 100, &["offset 656 of an allocation of 256 bytes"]);
    assert_found("output_underrun", 64, 0, &["bytes before an allocation of 256 bytes"]);
    assert_found("output_underrun", 64, 2000, &["offset -8004 of an allocation of 256 bytes"]);
    assert_found("read_far_beyond", 64, 0, &["offset", "of an allocation of 256 bytes"]);
    assert_found("array_index", 64, 5, &["bounds of its array", "faults.cu"]);
}

#[test]
fn a_write_into_the_rest_of_the_last_page() {
    for (index, word) in [(1, "0 bytes past the end"), (3, "8 bytes past the end")] {
        let context = context();
        let output = zeros(&context, 4);
        let params =
            Probe { input: output.ptr(), output: output.ptr(), count: index - 64, variant: 0 };
        probe(&context, "fault_output_overrun", one_block(64, 0), &params).unwrap();
        let message = context.synchronize().unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("of 4 bytes"), "{message}");
    }
}

#[test]
fn bad_addresses_and_numbers() {
    assert_found("misaligned_vector", 64, 0, &["misaligned", "faults.cu"]);
    assert_found("division_by_zero", 64, 0, &["division by 0", "faults.cu"]);
    assert_found("trap", 64, 0, &["__trap", "thread 7"]);
}

#[test]
fn null_and_freed_addresses() {
    for is_null in [true, false] {
        let context = context();
        let output = zeros(&context, 256);
        let freed = upload_f32(&context, &[1.0; 64]).ptr();
        let input = if is_null { DevicePtr::NULL } else { freed };
        let params = Probe { input, output: output.ptr(), count: 0, variant: 0 };
        probe(&context, "fault_read_input", one_block(64, 0), &params).unwrap();
        let message = context.synchronize().unwrap_err().to_string();
        assert!(message.contains("which is no device memory, or no longer"), "{message}");
    }
}

#[test]
fn what_nobody_has_written_is_not_a_number() {
    for (name, variant, is_number) in [
        ("nothing_but_shared_is_unwritten", 0, false),
        ("nothing_but_copy_is_read_early", 0, false),
        ("nothing_but_copy_is_read_early", 1, true),
    ] {
        let context = context();
        let input = upload_f32(&context, &[1.0; 64]);
        let output = zeros(&context, 256);
        let params = Probe { input: input.ptr(), output: output.ptr(), count: 0, variant };
        probe(&context, &format!("fault_{name}"), one_block(64, 256), &params).unwrap();
        let got = download_f32(&context, &output);
        assert!(got.iter().all(|x| x.is_nan() != is_number), "{name} {variant}: {got:?}");
    }
    let context = context();
    let fresh = context.allocate(64).unwrap();
    assert!(download_f32(&context, &fresh).iter().all(|x| x.is_nan()));
}

#[test]
fn a_launch_of_impossible_size_is_refused_at_once() {
    let context = context();
    let output = zeros(&context, 256);
    let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count: 0, variant: 0 };
    for (num_threads, shared_bytes, word) in [(0, 0, "0 threads"), (65, 0, "65 threads")]
        .into_iter()
        .chain([(64, (227 << 10) + 1, "232449 bytes of shared memory")])
    {
        let result = probe(&context, "fault_trap", one_block(num_threads, shared_bytes), &params);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    // Nothing has run, so the device still works.
    context.synchronize().unwrap();
    let message = context.kernel("attention_of_the_deaf").unwrap_err().to_string();
    assert!(message.contains("attention_of_the_deaf"), "{message}");
}
