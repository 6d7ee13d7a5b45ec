//! Weight matrices as they lie in a memory-mapped checkpoint.

use std::fmt;

/// The number format of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// IEEE single precision, 4 bytes.
    F32,
    /// The upper half of a single, 2 bytes.
    Bf16,
    /// IEEE half precision, 2 bytes.
    F16,
}

impl WeightDtype {
    /// Bytes of one element.
    pub const fn num_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Why bytes do not form a [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixError {
    dtype: WeightDtype,
    rows: usize,
    cols: usize,
    num_bytes: usize,
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, rows, cols, num_bytes } = self;
        if *cols == 0 {
            return write!(f, "matrix of {rows} x {cols} has no columns");
        }
        write!(f, "matrix of {rows} x {cols} {dtype:?} does not fit its data of {num_bytes} bytes")
    }
}

impl std::error::Error for MatrixError {}

/// A row-major matrix `[rows, cols]` borrowed from bytes: for a linear layer `[N out, K in]`.
///
/// The bytes are little-endian and need no alignment.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    dtype: WeightDtype,
    data: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// Views `data` as a matrix; it must hold exactly `rows * cols` elements, and `cols` must be
    /// above zero.
    pub fn new(
        dtype: WeightDtype,
        data: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> Result<Self, MatrixError> {
        let size = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.num_bytes()));
        if cols == 0 || size != Some(data.len()) {
            return Err(MatrixError { dtype, rows, cols, num_bytes: data.len() });
        }
        Ok(Self { dtype, data, rows, cols })
    }

    /// The number format.
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// Number of rows: outputs N of a linear layer, or the vocabulary of an embedding table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs K of a linear layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes, row after row.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Rows `first..last` as a matrix of their own: one part of a fused projection.
    #[must_use]
    pub fn row_range(&self, first: usize, last: usize) -> Self {
        assert!(
            first <= last && last <= self.rows,
            "rows {first}..{last} of a matrix of {} rows",
            self.rows
        );
        let row = self.row_bytes();
        Self { data: &self.data[first * row..last * row], rows: last - first, ..*self }
    }

    /// Bytes from one row to the next.
    pub(crate) fn row_bytes(&self) -> usize {
        self.cols * self.dtype.num_bytes()
    }
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({:?} {} x {})", self.dtype, self.rows, self.cols)
    }
}
