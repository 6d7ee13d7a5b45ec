//! Which algorithm was fastest, from one start of the program to the next.
//!
//! A text file: the first line names device, library and format; each further line is a shape and
//! the library's own description of the algorithm, which is good for just this version of it. A
//! file with another first line, or with a line that cannot be read, is begun anew. That nothing
//! can be written costs some time at the next start, and is no error.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;

use crate::cuda::context::{Element, Epilogue, OutputElement};
use crate::cuda::driver::MatmulShape;

/// Algorithms by shape, and the file that keeps them.
#[derive(Debug)]
pub(super) struct Store {
    path: Option<PathBuf>,
    known: HashMap<MatmulShape, cublasLtMatmulAlgo_t>,
}

impl Store {
    /// Reads what is known about this device and library.
    pub(super) fn open(path: Option<PathBuf>, device: &str, version: usize) -> Self {
        let title = format!("# matrix products of folio, 1: {device}, cuBLASLt {version}");
        let known = path.as_ref().and_then(|path| {
            let text = fs::read_to_string(path).ok()?;
            parse(text.strip_prefix(&title)?.strip_prefix('\n')?)
        });
        if let (Some(path), None) = (&path, &known) {
            let _ = fs::write(path, format!("{title}\n"));
        }
        Self { path, known: known.unwrap_or_default() }
    }

    pub(super) fn get(&self, shape: &MatmulShape) -> Option<cublasLtMatmulAlgo_t> {
        self.known.get(shape).copied()
    }

    pub(super) fn put(&mut self, shape: &MatmulShape, algorithm: &cublasLtMatmulAlgo_t) {
        self.known.insert(*shape, *algorithm);
        let Some(path) = &self.path else { return };
        if let Ok(mut file) = OpenOptions::new().append(true).open(path) {
            let _ = file.write_all(line(shape, algorithm).as_bytes());
        }
    }
}

const ELEMENTS: [(&str, Element); 2] = [("bf16", Element::Bf16), ("f16", Element::F16)];
const OUTPUTS: [(&str, OutputElement); 2] =
    [("same", OutputElement::Same), ("f32", OutputElement::F32)];
const EPILOGUES: [(&str, Epilogue); 4] = [
    ("none", Epilogue::None),
    ("bias", Epilogue::Bias),
    ("bias-gelu", Epilogue::BiasGelu),
    ("bias-gelu-tanh", Epilogue::BiasGeluTanh),
];

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: &T) -> &'static str {
    table.iter().find(|(_, known)| known == value).map_or("?", |(name, _)| name)
}

fn value_of<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

fn line(shape: &MatmulShape, algorithm: &cublasLtMatmulAlgo_t) -> String {
    let MatmulShape { rows, cols, inner, .. } = shape;
    let element = name_of(&ELEMENTS, &shape.element);
    let output = name_of(&OUTPUTS, &shape.output);
    let epilogue = name_of(&EPILOGUES, &shape.epilogue);
    let mut line = format!("{rows} {cols} {inner} {element} {output} {epilogue}");
    for word in algorithm.data {
        // A string takes everything.
        let _ = write!(line, " {word:x}");
    }
    line.push('\n');
    line
}

fn parse(text: &str) -> Option<HashMap<MatmulShape, cublasLtMatmulAlgo_t>> {
    text.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(MatmulShape, cublasLtMatmulAlgo_t)> {
    let words: Vec<_> = line.split(' ').collect();
    let [rows, cols, inner, element, output, epilogue, data @ ..] = &words[..] else {
        return None;
    };
    let shape = MatmulShape {
        rows: rows.parse().ok()?,
        cols: cols.parse().ok()?,
        inner: inner.parse().ok()?,
        element: value_of(&ELEMENTS, element)?,
        output: value_of(&OUTPUTS, output)?,
        epilogue: value_of(&EPILOGUES, epilogue)?,
    };
    let data: Option<Vec<_>> = data.iter().map(|word| u64::from_str_radix(word, 16).ok()).collect();
    Some((shape, cublasLtMatmulAlgo_t { data: data?.try_into().ok()? }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

    use super::*;

    fn shape(rows: u32) -> MatmulShape {
        MatmulShape {
            rows,
            cols: 4096,
            inner: 1024,
            element: Element::Bf16,
            output: OutputElement::F32,
            epilogue: Epilogue::BiasGeluTanh,
        }
    }

    fn algorithm(first: u64) -> cublasLtMatmulAlgo_t {
        cublasLtMatmulAlgo_t { data: [first, 1, 2, u64::MAX, 4, 5, 6, 7] }
    }

    #[test]
    fn what_was_measured_is_there_at_the_next_start_of_the_same_device_and_library() {
        let path = std::env::temp_dir().join(format!("folio-matmuls-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut store = Store::open(Some(path.clone()), "some device", 130_100);
        store.put(&shape(16), &algorithm(0x1234));
        store.put(&shape(32), &algorithm(5));

        let again = Store::open(Some(path.clone()), "some device", 130_100);
        assert_eq!(again.get(&shape(16)), Some(algorithm(0x1234)));
        assert_eq!(again.get(&shape(32)), Some(algorithm(5)));
        assert_eq!(again.get(&shape(64)), None);

        let other = Store::open(Some(path.clone()), "some device", 130_200);
        assert_eq!(other.get(&shape(16)), None);
        let back = Store::open(Some(path.clone()), "some device", 130_100);
        assert_eq!(back.get(&shape(16)), None, "the file was begun anew");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_damaged_file_is_begun_anew() {
        let path = std::env::temp_dir().join(format!("folio-damaged-{}", std::process::id()));
        let mut store = Store::open(Some(path.clone()), "some device", 1);
        store.put(&shape(16), &algorithm(1));
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        assert_eq!(Store::open(Some(path.clone()), "some device", 1).get(&shape(16)), None);
        let begun = fs::read_to_string(&path).unwrap();
        assert_eq!(begun.lines().count(), 1, "{begun}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_store_without_a_file_remembers() {
        let mut store = Store::open(None, "some device", 1);
        store.put(&shape(1), &algorithm(9));
        assert_eq!(store.get(&shape(1)), Some(algorithm(9)));
    }
}
