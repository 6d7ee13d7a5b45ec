//! Matrix products at the shapes of real models: the driver's library and our own kernels.

use anyhow::Result;
use folio_kernels::cuda::{
    Epilogue, Gemm, GemmMode, GemmWorkspace, OutputElement, ProductChoice, Products, View, gemm,
};

use super::{Bench, ELEMENT};

/// Outputs and inputs of the products of a layer, and of the last one of a model.
const SHAPES: [(&str, usize, usize); 8] = [
    ("8B qkv", 6144, 4096),
    ("8B output", 4096, 4096),
    ("8B gate_up", 28672, 4096),
    ("8B down", 4096, 14336),
    ("8B logits", 128_256, 4096),
    ("0.6B qkv", 4096, 1024),
    ("0.6B gate_up", 6144, 1024),
    ("0.6B down", 1024, 3072),
];
const TINY_SHAPES: [(&str, usize, usize); 1] = [("tiny", 48, 64)];

/// Memory that weights are rotated through: more than the second-level cache holds.
const ROTATED_BYTES: usize = 256 << 20;

impl Bench<'_> {
    pub(super) fn products(&mut self) -> Result<()> {
        let shapes = self.pick(SHAPES.to_vec(), TINY_SHAPES.to_vec());
        for (name, cols, inner) in shapes {
            for rows in self.pick(vec![1, 8, 16, 32, 64, 128, 256, 2048], vec![1, 20]) {
                self.product(name, [rows, cols, inner])?;
            }
        }
        Ok(())
    }

    fn product(&mut self, name: &str, [rows, cols, inner]: [usize; 3]) -> Result<()> {
        let num_weights = self.pick(ROTATED_BYTES.div_ceil(cols * inner * 2), 1);
        let weights = self.random([num_weights * cols, inner], 1)?;
        let input = self.random([rows, inner], 2)?;
        let output = self.context.allocate(rows * cols * 4)?;
        let weight =
            |index: usize| weights.view(index % num_weights * cols * inner, [cols, inner], 2);
        let operands = |index: usize, mode: GemmMode| Gemm {
            input: input.view(0, [rows, inner], 2),
            weight: weight(index),
            bias: None,
            epilogue: Epilogue::None,
            output: output.view(0, [rows, cols], 2),
            output_element: OutputElement::Same,
            element: ELEMENT,
            mode,
        };
        let bytes = 2.0 * (cols * inner + rows * inner + rows * cols) as f64;
        let work = (bytes, 2.0 * (rows * cols * inner) as f64);
        let shape = format!("{name} {rows} x {cols} x {inner}");
        let workspace = GemmWorkspace::new(self.context)?;
        for (kernel, mode) in
            [("gemm own", GemmMode::Fast), ("gemm deterministic", GemmMode::Deterministic)]
        {
            let micros = self
                .micros(|context, index| Ok(gemm(context, &workspace, operands(index, mode))?))?;
            self.report(kernel, shape.clone(), micros, work);
        }
        let products = Products::new(self.context)?;
        let first = operands(0, GemmMode::Fast);
        if matches!(products.choice(self.context, &first)?, ProductChoice::Library(_)) {
            let micros = self.micros(|context, index| {
                Ok(products.multiply(context, operands(index, GemmMode::Fast))?)
            })?;
            self.report("gemm library", shape, micros, work);
        }
        Ok(())
    }

    /// Operations a second of a square product, by whoever is fastest.
    pub(super) fn square_product(&mut self, side: usize) -> Result<f64> {
        let input = self.random([side, side], 1)?;
        let weight = self.random([side, side], 2)?;
        let output = self.context.allocate(side * side * 2)?;
        let products = Products::new(self.context)?;
        let view = |buffer: &folio_kernels::cuda::DeviceBuffer| -> View {
            buffer.view(0, [side, side], 2)
        };
        let args = Gemm {
            input: view(&input),
            weight: view(&weight),
            bias: None,
            epilogue: Epilogue::None,
            output: view(&output),
            output_element: OutputElement::Same,
            element: ELEMENT,
            mode: GemmMode::Fast,
        };
        let micros = self.micros(|context, _| Ok(products.multiply(context, args)?))?;
        Ok(2.0 * (side as f64).powi(3) / (micros * 1e-6))
    }
}
