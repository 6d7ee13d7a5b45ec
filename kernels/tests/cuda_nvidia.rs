//! NVIDIA's driver as the host sees it: against a made-up one that notes every call.
//!
//! Each test compiles `fake_cuda/cuda.c` as `libcuda` and `libcublasLt` and runs a case from the
//! end of this file in a process of its own that finds them first. So it is tested what is
//! called, in which order and with which bytes; that a device does it right is beyond these tests.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "launches take raw parameters")]

mod cuda_common;
mod fake_cuda;

use cuda_common::{Random, rounded};
use folio_kernels::cuda::nvidia::{self, Fatbin, Overlap};
use folio_kernels::cuda::{
    Command, Context, DevicePtr, Driver, Element, Epilogue, Launch, MatmulShape, NvidiaDriver,
    NvidiaOptions, OpenError, OutputElement, Params,
};
use half::bf16;
use std::ptr::NonNull;
use std::sync::Arc;

/// What the made-up driver takes for two compiled families.
const FATBINS: &[Fatbin] = &[
    Fatbin { family: "one", bytes: b"scale_bf16 24\nscale_f16 24\n\0" },
    Fatbin { family: "two", bytes: b"other_bf16 8\n\0" },
];

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Scale {
    from: DevicePtr,
    to: DevicePtr,
    count: i32,
    factor: f32,
}

// SAFETY: plain numbers in C's layout.
unsafe impl Params for Scale {}

fn options() -> NvidiaOptions {
    NvidiaOptions { fatbins: FATBINS, ..NvidiaOptions::new(0) }
}

fn open() -> Arc<dyn Driver> {
    NvidiaDriver::open_with(options()).unwrap()
}

// ---- what does not open

#[test]
fn no_driver_is_a_sentence() {
    // Where there is a real one, opening may as well work.
    if let Err(error) = NvidiaDriver::open(0) {
        let sentence = error.to_string();
        assert!(!sentence.is_empty() && !sentence.contains('\n'), "{sentence}");
        assert_eq!(nvidia::probe(0).unwrap_err(), error);
        if error == OpenError::NoDriver {
            assert!(sentence.contains("libcuda.so.1"), "{sentence}");
        }
    }
}

#[test]
fn a_driver_without_a_device_is_a_sentence() {
    fake_cuda::run("no_device", &["NO_DEVICE"]);
}

#[test]
fn an_old_driver_is_told_by_its_version() {
    fake_cuda::run("old_driver", &["OLD_DRIVER", "BARE"]);
}

#[test]
fn an_old_device_is_told_by_its_name() {
    fake_cuda::run("old_device", &["OLD_DEVICE"]);
}

#[test]
fn a_library_that_is_no_whole_driver_is_told_by_what_it_lacks() {
    fake_cuda::run("bare_library", &["BARE"]);
}

#[test]
fn embedded_kernels_are_whole_and_aligned() {
    for Fatbin { family, bytes } in nvidia::embedded_fatbins() {
        assert_eq!(bytes.as_ptr() as usize % 16, 0, "{family}");
        assert_eq!(bytes[..8], [0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0], "{family}");
        let length = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(length as usize + 16, bytes.len(), "{family}");
    }
}

// ---- what does

#[test]
fn a_device_is_what_its_driver_says() {
    fake_cuda::run("device", &[]);
}

#[test]
fn a_launch_carries_the_bytes_of_its_parameters() {
    fake_cuda::run("launch", &[]);
}

#[test]
fn copies_arrive_and_streams_and_events_are_of_the_right_kind() {
    fake_cuda::run("copies", &[]);
}

#[test]
fn a_captured_graph_runs_at_each_replay_and_not_before() {
    fake_cuda::run("graph", &[]);
}

#[test]
fn a_fault_and_a_lack_of_memory_are_told_apart() {
    fake_cuda::run("faults", &["BROKEN", "NO_CUBLASLT"]);
}

#[test]
fn a_driver_follows_its_caller_from_thread_to_thread() {
    fake_cuda::run("threads", &[]);
}

#[test]
fn products_are_those_of_plain_loops() {
    fake_cuda::run("products", &[]);
}

#[test]
fn the_fastest_algorithm_is_measured_once_and_remembered() {
    fake_cuda::run("tuning", &[]);
}

#[test]
fn without_cublaslt_no_product_is_planned() {
    fake_cuda::run("no_cublaslt", &["NO_CUBLASLT"]);
}

/// The other half of every test above: does nothing unless it was started by one.
#[test]
fn case() {
    let Ok(case) = std::env::var(fake_cuda::CASE) else { return };
    let (_, run) = CASES.iter().find(|(name, _)| *name == case).unwrap();
    run();
}

const CASES: &[(&str, fn())] = &[
    ("no_device", || {
        assert_eq!(nvidia::probe(0).unwrap_err(), OpenError::NoDevice);
        assert_eq!(open_error(0), "the NVIDIA driver sees no device");
    }),
    ("old_driver", || {
        assert_eq!(
            open_error(0),
            "the NVIDIA driver is for CUDA 12.4; CUDA 13.0 is needed (driver 580 or newer)"
        );
    }),
    ("old_device", || {
        assert_eq!(open_error(0), "Fake H100 has compute capability 7.5; 8.0 is needed");
    }),
    ("bare_library", || {
        let sentence = open_error(0);
        assert!(sentence.contains("it has no cu"), "{sentence}");
    }),
    ("device", device),
    ("launch", launch),
    ("copies", copies),
    ("graph", graph),
    ("faults", faults),
    ("threads", threads),
    ("products", products),
    ("tuning", tuning),
    ("no_cublaslt", || {
        let driver = open();
        let reason = driver.matmul_library().unwrap_err();
        assert!(reason.starts_with("cuBLASLt not"), "{reason}");
        assert_eq!(driver.prepare_matmul(&shape([4, 8, 8])).unwrap(), None);
    }),
];

fn open_error(ordinal: usize) -> String {
    NvidiaDriver::open(ordinal).unwrap_err().to_string()
}

fn device() {
    assert_eq!(open_error(3), "there is no CUDA device 3: the driver sees 1");
    let device = nvidia::probe(0).unwrap();
    assert_eq!(device.name, "Fake H100");
    assert_eq!(device.capability, (9, 0));
    assert_eq!(device.num_multiprocessors, 132);
    assert_eq!(device.max_shared_bytes, 227 << 10);
    let driver = open();
    assert_eq!(driver.device(), &device);
    assert_eq!(driver.memory().unwrap().total_bytes, 80 << 30);
    assert_eq!(driver.matmul_library().unwrap(), "cuBLASLt 13.1.0");
    let log = fake_cuda::log();
    // All shared memory that the kernel does not have anyway, and the largest share of the cache.
    assert!(log.contains(&format!("scale_f16 attribute 8 = {}", (227 << 10) - 1024)), "{log}");
    assert!(log.contains("other_bf16 attribute 9 = 100"), "{log}");
    drop(driver);
    assert!(fake_cuda::log().ends_with("release\n"));
}

fn scale_launch(context: &Context, params: &Scale, name: &str) -> folio_kernels::cuda::Result<()> {
    let launch = Launch { grid: [7, 2, 1], num_threads: 128, shared_bytes: 4096 };
    let kernel = context.kernel(name)?;
    // SAFETY: nothing runs.
    unsafe { context.launch(kernel, launch, params) }
}

fn launch() {
    let params =
        Scale { from: DevicePtr(0x1122_3344_5566), to: DevicePtr(64), count: -2, factor: 1.0 };
    let bytes = "665544332211000040000000000000 00feffffff0000803f".replace(' ', "");
    let launched = "launch scale_bf16 <7 2 1> <128 1 1> 4096 on 0";
    for (overlap, attribute) in [(Overlap::Allowed, " attribute 6 = 1"), (Overlap::Off, "")] {
        let driver = NvidiaDriver::open_with(NvidiaOptions { overlap, ..options() }).unwrap();
        let context = Context::new(driver).unwrap();
        let stream = context.stream().0;
        assert_eq!(stream, 0);
        scale_launch(&context, &params, "scale_bf16").unwrap();
        let log = fake_cuda::log();
        let line = log.lines().find(|line| line.starts_with("launch")).unwrap();
        let line = line.replace(&format!("on {}", fake_cuda::last_stream(&log)), "on 0");
        assert_eq!(line, format!("{launched}{attribute} params {bytes}"));
        fake_cuda::clear_log();

        let missing = scale_launch(&context, &params, "scale_f64").unwrap_err().to_string();
        assert!(missing.contains("no kernel scale_f64 among the 3 of the 2"), "{missing}");
        let wrong = scale_launch(&context, &params, "other_bf16").unwrap_err().to_string();
        assert_eq!(wrong, "other_bf16 takes 8 bytes of parameters and was given 24");
    }
}

fn copies() {
    let context = Context::new(open()).unwrap();
    let driver = Arc::clone(context.driver());
    let other = driver.create_stream().unwrap();
    let event = driver.create_event().unwrap();

    let buffer = context.upload(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let half = buffer.ptr().offset(4);
    let commands = [
        Command::Zero { to: buffer.ptr(), num_bytes: 2 },
        Command::Copy { to: half, from: buffer.ptr(), num_bytes: 4 },
        Command::Record(event),
    ];
    for command in commands {
        // SAFETY: within the buffer.
        unsafe { driver.enqueue(context.stream(), command).unwrap() };
    }
    // SAFETY: nothing but the event is named.
    unsafe { driver.enqueue(other, Command::Wait(event)).unwrap() };
    driver.synchronize(other, Some(event)).unwrap();
    assert_eq!(context.download(&buffer).unwrap(), [0, 0, 3, 4, 0, 0, 3, 4]);

    let pinned = context.allocate_pinned(100).unwrap();
    assert_eq!(pinned.as_slice(), [0; 100]);
    let log = fake_cuda::log();
    for line in [
        "stream 0 flags 1 priority -5",
        "stream 1 flags 1 priority 0",
        "event flags 2",
        "in 8 on 0",
        "zero 2 on 0",
        "copy 4 on 0",
        "record on 0",
        "wait on 1 flags 0",
        "wait for event",
        "out 8 on 0",
        "pinned 100 flags 0",
    ] {
        assert!(log.lines().any(|found| found == line), "no `{line}` in\n{log}");
    }
}

fn graph() {
    let context = Context::new(open()).unwrap();
    let driver = Arc::clone(context.driver());
    let stream = context.stream();
    let mut pinned = context.allocate_pinned(4).unwrap();
    let buffer = context.upload(&[9; 4]).unwrap();
    let params = Scale { from: buffer.ptr(), to: buffer.ptr(), count: 4, factor: 0.5 };

    driver.begin_capture(stream).unwrap();
    let from = NonNull::new(pinned.as_mut_slice().as_mut_ptr()).unwrap();
    // SAFETY: both are 4 bytes long and outlive the replays.
    unsafe {
        driver.enqueue(stream, Command::CopyIn { to: buffer.ptr(), from, num_bytes: 4 }).unwrap();
    }
    scale_launch(&context, &params, "scale_f16").unwrap();
    let graph = driver.end_capture(stream).unwrap();
    assert_eq!(context.download(&buffer).unwrap(), [9; 4], "a capture runs nothing");

    for value in [3, 4] {
        pinned.as_mut_slice().fill(value);
        // SAFETY: as above.
        unsafe { driver.enqueue(stream, Command::Replay(graph)).unwrap() };
        assert_eq!(context.download(&buffer).unwrap(), [value; 4]);
    }
    let log = fake_cuda::log();
    // Mode 1: what others do on their threads does not break the capture.
    assert!(log.contains("capture on 0 mode 1\nupload 2 on 0\n"), "{log}");
    let num_launches = log.lines().filter(|line| line.starts_with("launch scale_f16")).count();
    assert_eq!(num_launches, 2);
}

fn faults() {
    let context = Context::new(open()).unwrap();
    let error = context.allocate(123_456).unwrap_err().to_string();
    assert_eq!(error, "the device has no memory left for 123456 bytes");
    let error = context.synchronize().unwrap_err().to_string();
    let expected = "cuStreamSynchronize: an illegal memory access was encountered \
                    (CUDA_ERROR_ILLEGAL_ADDRESS); nothing works on this device any more until the \
                    program starts anew";
    assert_eq!(error, expected);
}

fn threads() {
    let context = Context::new(open()).unwrap();
    fake_cuda::clear_log();
    context.synchronize().unwrap();
    assert!(!fake_cuda::log().contains("bind"), "bound on this thread already");
    std::thread::scope(|scope| {
        scope.spawn(|| drop(context.allocate(4).unwrap()));
    });
    assert_eq!(fake_cuda::log().matches("bind 0x8").count(), 1);
    context.synchronize().unwrap();
    assert_eq!(fake_cuda::log().matches("bind 0x8").count(), 2);
}

fn shape([rows, cols, inner]: [u32; 3]) -> MatmulShape {
    MatmulShape {
        rows,
        cols,
        inner,
        element: Element::Bf16,
        output: OutputElement::Same,
        epilogue: Epilogue::None,
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn products() {
    let context = Context::new(open()).unwrap();
    let mut random = Random(11);
    for (output, epilogue) in [
        (OutputElement::Same, Epilogue::None),
        (OutputElement::F32, Epilogue::None),
        (OutputElement::Same, Epilogue::Bias),
        (OutputElement::Same, Epilogue::BiasGeluTanh),
    ] {
        let shape = MatmulShape { output, epilogue, ..shape([3, 8, 24]) };
        check_product(&context, &mut random, &shape);
    }
    // What the library has no epilogue for is left to the caller's own kernel.
    let gelu = MatmulShape { epilogue: Epilogue::BiasGelu, ..shape([3, 8, 24]) };
    assert_eq!(context.driver().prepare_matmul(&gelu).unwrap(), None);
    let wide =
        MatmulShape { epilogue: Epilogue::Bias, output: OutputElement::F32, ..shape([3, 8, 24]) };
    assert_eq!(context.driver().prepare_matmul(&wide).unwrap(), None);
}

fn check_product(context: &Context, random: &mut Random, shape: &MatmulShape) {
    let [rows, cols, inner] = [shape.rows, shape.cols, shape.inner].map(|size| size as usize);
    let [input, weight, bias] = [rows * inner, cols * inner, cols]
        .map(|count| rounded(Element::Bf16, &random.normals(count)));
    let [input_buffer, weight_buffer, bias_buffer] =
        [&input, &weight, &bias].map(|values| context.upload(&to_bytes(values)).unwrap());
    let output_buffer = context.allocate(rows * cols * 4).unwrap();
    let plan = context.driver().prepare_matmul(shape).unwrap().unwrap();
    let command = Command::Matmul {
        plan,
        input: input_buffer.ptr(),
        weight: weight_buffer.ptr(),
        bias: bias_buffer.ptr(),
        output: output_buffer.ptr(),
    };
    // SAFETY: the buffers are as long as the shape says.
    unsafe { context.driver().enqueue(context.stream(), command).unwrap() };
    let bytes = context.download(&output_buffer).unwrap();
    for index in 0..rows * cols {
        let (row, col) = (index / cols, index % cols);
        let mut expected: f64 = (0..inner)
            .map(|i| f64::from(input[row * inner + i]) * f64::from(weight[col * inner + i]))
            .sum();
        if shape.epilogue != Epilogue::None {
            expected += f64::from(bias[col]);
        }
        if shape.epilogue == Epilogue::BiasGeluTanh {
            expected = gelu_tanh(expected);
        }
        let found = match shape.output {
            OutputElement::F32 => {
                f32::from_le_bytes(bytes[index * 4..][..4].try_into().unwrap()).into()
            }
            OutputElement::Same => {
                bf16::from_le_bytes(bytes[index * 2..][..2].try_into().unwrap()).to_f64()
            }
        };
        // Half a unit of bf16's last place, and what single precision adds.
        let tolerance = expected.abs() / 256.0 + 1e-5;
        assert!((found - expected).abs() <= tolerance, "{shape:?} {row} {col}: {found} {expected}");
    }
}

fn tuning() {
    let path = std::path::PathBuf::from(std::env::var(fake_cuda::LOG).unwrap() + ".tuning");
    let _ = std::fs::remove_file(&path);
    let options = || NvidiaOptions { tuning_file: Some(path.clone()), ..options() };
    let driver = NvidiaDriver::open_with(options()).unwrap();
    let plan = driver.prepare_matmul(&shape([5, 8, 16])).unwrap().unwrap();
    // All numbers of rows from 5 to 8 are as one; and a shape that is known is not planned again.
    assert!(fake_cuda::log().contains("heuristic for 8 rows"));
    fake_cuda::clear_log();
    assert_eq!(driver.prepare_matmul(&shape([5, 8, 16])).unwrap(), Some(plan));
    assert!(driver.prepare_matmul(&shape([7, 8, 16])).unwrap().is_some());
    assert!(!fake_cuda::log().contains("heuristic"));
    run_product(driver, shape([6, 8, 16]));
    // The second guess is the faster one.
    let last = fake_cuda::log();
    assert!(last.contains("matmul by 1, 33554432 bytes"), "{last}");

    fake_cuda::clear_log();
    run_product(NvidiaDriver::open_with(options()).unwrap(), shape([8, 8, 16]));
    let again = fake_cuda::log();
    assert!(!again.contains("heuristic"), "measured at the first start: {again}");
    assert!(again.contains("matmul by 1,"), "{again}");
    std::fs::remove_file(&path).unwrap();

    // While a stream is captured nothing can be measured: the library's first guess serves.
    let context = Context::new(open()).unwrap();
    fake_cuda::clear_log();
    context.driver().begin_capture(context.stream()).unwrap();
    assert!(context.driver().prepare_matmul(&shape([4, 16, 16])).unwrap().is_some());
    context.driver().end_capture(context.stream()).unwrap();
    assert!(!fake_cuda::log().contains("matmul"), "{}", fake_cuda::log());
}

fn run_product(driver: Arc<dyn Driver>, shape: MatmulShape) {
    let context = Context::new(driver).unwrap();
    check_product(&context, &mut Random(5), &shape);
}
