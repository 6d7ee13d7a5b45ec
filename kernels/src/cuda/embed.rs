//! Rows of tables: embeddings of tokens, and the rows that a step emits.

use super::context::{Context, Element, Launch, View};
use super::driver::{DevicePtr, Result};
use super::params::{EmbedParams, EmbedTable, GatherRowsParams};
use super::shapes::{access_width, check_shape, kernel, threads_for};

/// A table, and which of its rows a token takes: `indices[token] + offset`.
#[derive(Clone, Copy, Debug)]
pub struct TableLookup {
    /// The table, `[entries, H]`.
    pub table: View,
    /// `i32`, `[T]`: token ids or positions.
    pub indices: DevicePtr,
    /// Added to each index.
    pub offset: i32,
}

/// What [`embed`] works on.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// The first summand.
    pub first: TableLookup,
    /// The second, if any.
    pub second: Option<TableLookup>,
    /// The sums, `[T, H]`.
    pub output: View,
    /// Format of tables and output.
    pub element: Element,
}

/// The sum of one row of each table for every token, in single precision and rounded once.
///
/// An index outside its table gives a row of NaN.
pub fn embed(context: &Context, args: Embed) -> Result<()> {
    let output = args.output;
    let table = |lookup: Option<TableLookup>| {
        let Some(TableLookup { table, indices, offset }) = lookup else {
            return EmbedTable::default();
        };
        check_shape("embed: table", table, [table.rows, output.cols]);
        EmbedTable {
            entries: table.ptr.as_ptr(),
            indices: indices.as_ptr(),
            stride: table.stride as i64,
            num_entries: table.rows as i32,
            offset,
        }
    };
    let second = args.second.map_or(output, |lookup| lookup.table);
    let width = access_width(&[args.first.table, second, output]);
    let params = EmbedParams {
        tables: [table(Some(args.first)), table(args.second)],
        out: output.ptr.as_mut_ptr(),
        out_stride: output.stride as i64,
        cols: output.cols as i32,
        width: width as i32,
    };
    let launch = row_launch(output, width);
    // SAFETY: views are of memory that exists; the kernel checks indices.
    unsafe { context.launch(kernel(context, "embed", args.element)?, launch, &params) }
}

/// Copies row `rows[e]` of `input` to row e of `output`. `rows` is `i32`, `[E]`, and within
/// `input`; elements are of 16 bits.
pub fn gather_rows(context: &Context, input: View, rows: DevicePtr, output: View) -> Result<()> {
    check_shape("gather_rows: input", input, [input.rows, output.cols]);
    let width = access_width(&[input, output]);
    let params = GatherRowsParams {
        input: input.ptr.as_ptr(),
        rows: rows.as_ptr(),
        out: output.ptr.as_mut_ptr(),
        input_stride: input.stride as i64,
        out_stride: output.stride as i64,
        cols: output.cols as i32,
        width: width as i32,
    };
    // SAFETY: views are of memory that exists; the host made the row numbers.
    unsafe { context.launch(context.kernel("gather_rows")?, row_launch(output, width), &params) }
}

/// A block for each row.
fn row_launch(output: View, width: usize) -> Launch {
    let num_threads = threads_for(output.cols.div_ceil(width), 256);
    Launch { grid: [output.rows, 1, 1], num_threads, shared_bytes: 0 }
}
