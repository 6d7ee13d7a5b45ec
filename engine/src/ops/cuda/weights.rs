//! Weights in device memory: matrices and biases in the format of activations, one after the other
//! where they are used together, other vectors in single precision.

use std::borrow::Cow;

use folio_kernels::cuda::{
    Context, DeviceBuffer, DevicePtr, Element, FillRandom, View, fill_random,
};
use half::{bf16, f16};

use super::failure;
use crate::ops::{Dtype, HostTensor, MadeUp, Weight};
use crate::types::{Error, Result};

/// What was loaded, by the ids in [`Weight`]s.
#[derive(Debug)]
pub(super) struct Weights {
    element: Element,
    buffers: Vec<DeviceBuffer>,
    stored: Vec<Stored>,
}

/// One weight.
#[derive(Clone, Copy, Debug)]
struct Stored {
    ptr: DevicePtr,
    kind: Kind,
}

/// What a weight may be used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A matrix or a bias, in the format of activations.
    Short,
    /// A vector in single precision.
    Single,
}

impl Weights {
    pub(super) fn new(element: Element) -> Self {
        Self { element, buffers: Vec::new(), stored: Vec::new() }
    }

    /// Loads tensors, converted to the format of activations, one directly after the other.
    pub(super) fn load(&mut self, context: &Context, parts: &[HostTensor]) -> Result<Vec<Weight>> {
        let num_numbers = parts.iter().map(|part| part.rows() * part.cols()).sum::<usize>();
        let num_bytes = num_numbers * Element::NUM_BYTES;
        let buffer = context.allocate(num_bytes).map_err(|error| failure(&error))?;
        let mut offset = 0;
        let mut weights = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes = converted(part, self.element)?;
            context.write(&bytes, &buffer, offset).map_err(|error| failure(&error))?;
            let ptr = buffer.ptr().offset(offset);
            offset += bytes.len();
            weights.push(self.push(Stored { ptr, kind: Kind::Short }, part.rows(), part.cols()));
        }
        self.buffers.push(buffer);
        Ok(weights)
    }

    /// Makes up matrices of `cols` columns, one directly after the other.
    pub(super) fn make_up(
        &mut self,
        context: &Context,
        rows: &[usize],
        cols: usize,
        numbers: MadeUp,
    ) -> Result<Vec<Weight>> {
        let shape = [rows.iter().sum(), cols];
        let num_bytes = shape.iter().product::<usize>() * Element::NUM_BYTES;
        let buffer = context.allocate(num_bytes).map_err(|error| failure(&error))?;
        let MadeUp { seed, scale } = numbers;
        let output = buffer.view(0, shape, Element::NUM_BYTES);
        let args = FillRandom { output, seed, scale, element: self.element };
        fill_random(context, args).map_err(|error| failure(&error))?;
        let mut ptr = buffer.ptr();
        self.buffers.push(buffer);
        let weights = rows.iter().map(|rows| {
            let weight = self.push(Stored { ptr, kind: Kind::Short }, *rows, cols);
            ptr = ptr.offset(rows * cols * Element::NUM_BYTES);
            weight
        });
        let weights = weights.collect();
        // A product may read its weight before the kernel that precedes it has ended.
        context.synchronize().map_err(|error| failure(&error))?;
        Ok(weights)
    }

    /// Loads a vector in single precision.
    pub(super) fn load_vector(&mut self, context: &Context, numbers: &[f32]) -> Result<Weight> {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let buffer = context.allocate(bytes.len()).map_err(|error| failure(&error))?;
        context.write(&bytes, &buffer, 0).map_err(|error| failure(&error))?;
        let weight = self.push(Stored { ptr: buffer.ptr(), kind: Kind::Single }, 1, numbers.len());
        self.buffers.push(buffer);
        Ok(weight)
    }

    fn push(&mut self, stored: Stored, rows: usize, cols: usize) -> Weight {
        let id = self.stored.len() as u32;
        self.stored.push(stored);
        Weight { id, rows, cols }
    }

    /// A matrix or a bias.
    pub(super) fn matrix(&self, weight: Weight) -> View {
        let ptr = self.find(weight, Kind::Short);
        View { ptr, rows: weight.rows, cols: weight.cols, stride: weight.cols }
    }

    /// Several matrices or biases as one, if they were loaded together in this order; biases, being
    /// `[1, cols]` each, make one row.
    pub(super) fn stacked(&self, weights: impl Iterator<Item = Weight>) -> Option<View> {
        let mut all: Option<View> = None;
        for weight in weights {
            let next = self.matrix(weight);
            let Some(view) = &mut all else {
                all = Some(next);
                continue;
            };
            let end = view.ptr.offset(view.rows * view.cols * Element::NUM_BYTES);
            if next.ptr != end {
                return None;
            }
            if view.rows == 1 && next.rows == 1 {
                view.cols += next.cols;
                view.stride = view.cols;
            } else {
                view.rows += next.rows;
            }
        }
        all
    }

    /// Address of a vector in single precision.
    pub(super) fn vector(&self, weight: Weight) -> DevicePtr {
        self.find(weight, Kind::Single)
    }

    fn find(&self, weight: Weight, kind: Kind) -> DevicePtr {
        let stored = self.stored[weight.id as usize];
        assert_eq!(stored.kind, kind, "{weight:?} has another format");
        stored.ptr
    }
}

/// The bytes of a tensor in another format, or its own if that is the one.
fn converted(tensor: &HostTensor, element: Element) -> Result<Cow<'_, [u8]>> {
    match (tensor.dtype(), element) {
        (Dtype::Bf16, Element::Bf16) | (Dtype::F16, Element::F16) => {
            Ok(Cow::Borrowed(tensor.as_bytes()))
        }
        (_, Element::Bf16) => {
            Ok(Cow::Owned(narrowed(&tensor.to_f32(), |x| bf16::from_f32(x).to_le_bytes())))
        }
        (_, Element::F16) => {
            let numbers = tensor.to_f32();
            let is_too_large = |x: &&f32| x.is_finite() && f16::from_f32(**x).is_infinite();
            if let Some(number) = numbers.iter().find(is_too_large) {
                return Err(Error::Device(format!(
                    "the weight {number} exceeds what float16 can hold; use bfloat16"
                )));
            }
            Ok(Cow::Owned(narrowed(&numbers, |x| f16::from_f32(x).to_le_bytes())))
        }
    }
}

fn narrowed(numbers: &[f32], narrow: impl Fn(f32) -> [u8; 2]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * numbers.len()];
    let (halves, _) = bytes.as_chunks_mut::<2>();
    for (half, number) in halves.iter_mut().zip(numbers) {
        *half = narrow(*number);
    }
    bytes
}
