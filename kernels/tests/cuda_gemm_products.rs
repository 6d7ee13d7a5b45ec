//! Who multiplies: the driver's library or one of our own kernels.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "a driver is wrapped")]

mod cuda_common;

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use folio_emulator::test_driver;
use folio_kernels::cuda::{
    Command, Context, Device, DeviceBuffer, DevicePtr, Driver, Element, Epilogue, EventId, Gemm,
    GemmMode, GemmShape, GraphId, KernelId, MatmulId, MatmulShape, Memory, OutputElement,
    ProductChoice, Products, Result, StreamId, View, plan_gemm,
};

/// A driver with a library that notes what it is asked for and multiplies nothing. It cannot do
/// GELU by the error function.
#[derive(Debug)]
struct WithLibrary {
    driver: Arc<dyn Driver>,
    prepared: Mutex<Vec<MatmulShape>>,
    multiplied: Mutex<Vec<(MatmulId, DevicePtr)>>,
}

impl Driver for WithLibrary {
    fn device(&self) -> &Device {
        self.driver.device()
    }
    fn memory(&self) -> Result<Memory> {
        self.driver.memory()
    }
    fn allocate(&self, num_bytes: usize) -> Result<DevicePtr> {
        self.driver.allocate(num_bytes)
    }
    fn allocate_pinned(&self, num_bytes: usize) -> Result<NonNull<u8>> {
        self.driver.allocate_pinned(num_bytes)
    }
    unsafe fn free(&self, memory: DevicePtr) {
        // SAFETY: the caller's promise.
        unsafe { self.driver.free(memory) }
    }
    unsafe fn free_pinned(&self, memory: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.driver.free_pinned(memory) }
    }
    fn kernel(&self, name: &str) -> Result<KernelId> {
        self.driver.kernel(name)
    }
    fn prepare_matmul(&self, shape: &MatmulShape) -> Result<Option<MatmulId>> {
        let mut prepared = self.prepared.lock().unwrap();
        prepared.push(*shape);
        let id = MatmulId(prepared.len() as u32 - 1);
        Ok((shape.epilogue != Epilogue::BiasGelu).then_some(id))
    }
    fn create_stream(&self) -> Result<StreamId> {
        self.driver.create_stream()
    }
    fn create_event(&self) -> Result<EventId> {
        self.driver.create_event()
    }
    unsafe fn enqueue(&self, stream: StreamId, command: Command<'_>) -> Result<()> {
        if let Command::Matmul { plan, output, .. } = command {
            self.multiplied.lock().unwrap().push((plan, output));
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.driver.enqueue(stream, command) }
    }
    fn synchronize(&self, stream: StreamId, until: Option<EventId>) -> Result<()> {
        self.driver.synchronize(stream, until)
    }
    fn begin_capture(&self, stream: StreamId) -> Result<()> {
        self.driver.begin_capture(stream)
    }
    fn end_capture(&self, stream: StreamId) -> Result<GraphId> {
        self.driver.end_capture(stream)
    }
}

/// Operands of `[rows, inner]` times the transpose of `[cols, inner]`, all zeros, with rows of the
/// input and of the output `gap` elements apart.
struct Operands {
    args: Gemm,
    _buffers: [DeviceBuffer; 3],
}

impl Operands {
    fn new(context: &Context, shape: GemmShape, gap: usize) -> Self {
        let GemmShape { rows, cols, inner } = shape;
        let matrix = |rows: usize, cols: usize, gap: usize| {
            let buffer = context.upload(&vec![0; rows * (cols + gap) * 2]).unwrap();
            let view = View { ptr: buffer.ptr(), rows, cols, stride: cols + gap };
            (view, buffer)
        };
        let (input, first) = matrix(rows, inner, gap);
        let (weight, second) = matrix(cols, inner, 0);
        let (output, third) = matrix(rows, cols, 0);
        let args = Gemm {
            input,
            weight,
            bias: None,
            epilogue: Epilogue::None,
            output,
            output_element: OutputElement::Same,
            element: Element::Bf16,
            mode: GemmMode::Fast,
        };
        Self { args, _buffers: [first, second, third] }
    }
}

fn shape(rows: usize) -> GemmShape {
    GemmShape { rows, cols: 48, inner: 64 }
}

#[test]
fn without_a_library_our_kernels_multiply() {
    let context = cuda_common::context();
    let products = Products::new(&context).unwrap();
    for mode in [GemmMode::Fast, GemmMode::Deterministic] {
        for rows in [1, 40, 200] {
            let mut operands = Operands::new(&context, shape(rows), 0);
            operands.args.mode = mode;
            let own = ProductChoice::Own(plan_gemm(context.device(), shape(rows), mode));
            assert_eq!(products.choice(&context, &operands.args).unwrap(), own);
            products.multiply(&context, operands.args).unwrap();
            context.synchronize().unwrap();
        }
    }
}

#[test]
fn the_library_multiplies_many_dense_rows_and_is_asked_once_a_shape() {
    let driver = Arc::new(WithLibrary {
        driver: test_driver(),
        prepared: Mutex::default(),
        multiplied: Mutex::default(),
    });
    let context = Context::new(Arc::clone(&driver) as Arc<dyn Driver>).unwrap();
    let products = Products::new(&context).unwrap();
    let mut expected = HashMap::new();
    for rows in [100, 200, 100, 201, 200, 100] {
        let operands = Operands::new(&context, shape(rows), 0);
        products.multiply(&context, operands.args).unwrap();
        *expected.entry(rows).or_insert(0) += 1;
    }
    let prepared = driver.prepared.lock().unwrap().clone();
    assert_eq!(prepared.iter().map(|shape| shape.rows).collect::<Vec<_>>(), [100, 200, 201]);
    assert!(prepared.iter().all(|shape| (shape.cols, shape.inner) == (48, 64)));
    let multiplied = driver.multiplied.lock().unwrap().clone();
    for (id, shape) in prepared.iter().enumerate() {
        let calls = multiplied.iter().filter(|(plan, _)| plan.0 == id as u32).count();
        assert_eq!(calls, expected[&(shape.rows as usize)], "{shape:?}");
    }
}

#[test]
fn the_library_is_passed_over_where_it_cannot_or_should_not() {
    let driver = Arc::new(WithLibrary {
        driver: test_driver(),
        prepared: Mutex::default(),
        multiplied: Mutex::default(),
    });
    let context = Context::new(Arc::clone(&driver) as Arc<dyn Driver>).unwrap();
    let products = Products::new(&context).unwrap();
    let bias = context.upload(&[0; 96]).unwrap();
    let few = Operands::new(&context, shape(4), 0);
    let strided = Operands::new(&context, shape(100), 8);
    let odd = Operands::new(&context, GemmShape { cols: 44, ..shape(100) }, 0);
    let mut deterministic = Operands::new(&context, shape(100), 0);
    deterministic.args.mode = GemmMode::Deterministic;
    let mut gelu = Operands::new(&context, shape(100), 0);
    (gelu.args.epilogue, gelu.args.bias) = (Epilogue::BiasGelu, Some(bias.ptr()));
    for operands in [&few, &strided, &odd, &deterministic, &gelu, &gelu] {
        products.multiply(&context, operands.args).unwrap();
        let choice = products.choice(&context, &operands.args).unwrap();
        assert!(matches!(choice, ProductChoice::Own(_)), "{:?}: {choice:?}", operands.args);
    }
    context.synchronize().unwrap();
    assert_eq!(driver.prepared.lock().unwrap().len(), 1, "asked for the GELU once");
    assert!(driver.multiplied.lock().unwrap().is_empty());
}
