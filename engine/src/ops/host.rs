//! Tensors as they come from a checkpoint, before a device takes them over.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use folio_kernels::mapped::{self, Mapped};
use half::{bf16, f16};

/// Number format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn num_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Bytes in memory that somebody keeps alive; cheap to clone.
#[derive(Clone, Debug)]
pub enum HostBytes {
    /// A mapped file.
    Mapped(Arc<Mapped>),
    /// Bytes built into the program.
    Static(&'static [u8]),
    /// Bytes computed at load time.
    Owned(Arc<[u8]>),
}

impl HostBytes {
    /// Maps all of a file. It must not be changed in place as long as the bytes live.
    pub fn map(file: &File) -> io::Result<Self> {
        mapped::map(file).map(|mapped| Self::Mapped(Arc::new(mapped)))
    }

    /// All of the bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped.as_slice(),
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A matrix `[rows, cols]` in host memory, row-major; a vector is `[1, cols]`.
#[derive(Clone, Debug)]
pub struct HostTensor {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    bytes: HostBytes,
    range: Range<usize>,
}

impl HostTensor {
    /// A tensor at `range` of `bytes`, which must be as long as the shape says.
    #[must_use]
    pub fn new(dtype: Dtype, shape: [usize; 2], bytes: HostBytes, range: Range<usize>) -> Self {
        let [rows, cols] = shape;
        assert_eq!(range.len(), rows * cols * dtype.num_bytes(), "{dtype:?} {shape:?}");
        assert!(range.end <= bytes.as_slice().len(), "{range:?} of {bytes:?}");
        Self { dtype, rows, cols, bytes, range }
    }

    /// A tensor of numbers computed at load time.
    #[must_use]
    pub fn of_f32(numbers: &[f32], shape: [usize; 2]) -> Self {
        let bytes: Arc<[u8]> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self::new(Dtype::F32, shape, HostBytes::Owned(bytes), range)
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Its number format.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its bytes, little-endian as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes.as_slice()[self.range.clone()]
    }

    /// Its numbers converted to single precision.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let bytes = self.as_bytes();
        match self.dtype {
            Dtype::F32 => numbers_of(bytes, f32::from_le_bytes),
            Dtype::Bf16 => numbers_of(bytes, |pair| bf16::from_le_bytes(pair).to_f32()),
            Dtype::F16 => numbers_of(bytes, |pair| f16::from_le_bytes(pair).to_f32()),
        }
    }
}

fn numbers_of<const N: usize>(bytes: &[u8], parse: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| parse(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static BYTES: [u8; 9] = [0, 0, 128, 63, 0, 0, 64, 0, 62];

    #[test]
    fn every_format_reads_as_single_precision() {
        let tensor =
            |dtype, range| HostTensor::new(dtype, [1, 1], HostBytes::Static(&BYTES), range);
        assert_eq!(tensor(Dtype::F32, 0..4).to_f32(), [1.0]);
        assert_eq!(tensor(Dtype::Bf16, 2..4).to_f32(), [1.0]);
        assert_eq!(tensor(Dtype::F16, 7..9).to_f32(), [1.5]);
    }

    #[test]
    fn computed_tensors_keep_their_numbers() {
        let tensor = HostTensor::of_f32(&[1.0, -2.5, 3.0, f32::MIN_POSITIVE], [2, 2]);
        assert_eq!((tensor.rows(), tensor.cols(), tensor.dtype()), (2, 2, Dtype::F32));
        assert_eq!(tensor.to_f32(), [1.0, -2.5, 3.0, f32::MIN_POSITIVE]);
    }
}
