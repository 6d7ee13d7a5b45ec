//! Reading checkpoints in the safetensors format: one file, several with an index, or built in.
//!
//! Tensors are found by name, checked against the shape that the configuration implies, and handed
//! to the device as they are stored: no copy and no conversion on the way.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::SafeTensors;

use super::fields::Fields;
use super::files::ModelFiles;
use crate::ops::{Device, Dtype, HostBytes, HostTensor, Weight};
use crate::types::{Error, Result};

/// The one file of a checkpoint that is not cut into several.
const SINGLE: &str = "model.safetensors";
/// The index of one that is.
const INDEX: &str = "model.safetensors.index.json";

/// Ends of tensor names that only quantised checkpoints have.
const QUANTISED: [&str; 8] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".scales",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_packed",
    ".SCB",
];

/// Where a model takes its weights from.
pub trait WeightSource {
    /// Matrices, each with its name and rows, all with `cols` columns. They are used together, so
    /// that a device may put them one after the other.
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>>;

    /// What projections that are used together add to their outputs: names and lengths.
    fn biases(&mut self, parts: &[(String, usize)]) -> Result<Vec<Weight>>;

    /// The matrix `name`, which must be `[rows, cols]`.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let [rows, cols] = shape;
        Ok(self.matrices(&[(name.to_owned(), rows)], cols)?[0])
    }

    /// The vector `name` of `len` numbers, in single precision: a scale.
    fn vector(&mut self, name: &str, len: usize) -> Result<Weight>;

    /// The numbers of the tensor `name`, for what is computed from weights at load time or on the
    /// host.
    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// A matrix computed at load time.
    fn computed(&mut self, numbers: Vec<f32>, shape: [usize; 2]) -> Result<Weight>;

    /// A vector of `len` numbers computed at load time, by a call of `compute` if at all.
    fn computed_vector(&mut self, len: usize, compute: &dyn Fn() -> Vec<f32>) -> Result<Weight>;

    /// Whether there is a tensor `name`.
    fn contains(&self, name: &str) -> bool;

    /// Whether two tensors, which must be there, are equal.
    fn are_equal(&self, name: &str, other: &str) -> bool;
}

/// The files with weights, in name order, each with its size in bytes.
pub(crate) fn weight_files(files: &ModelFiles) -> Result<Vec<(String, u64)>> {
    let names = match Fields::read(files, INDEX)? {
        Some(index) => indexed_files(&index)?,
        None => BTreeSet::from([SINGLE.to_owned()]),
    };
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let Some(num_bytes) = files.num_bytes(&name)? else {
            return Err(no_weights(files, &name));
        };
        found.push((name, num_bytes));
    }
    Ok(found)
}

fn indexed_files(index: &Fields) -> Result<BTreeSet<String>> {
    let map = index.object("weight_map")?.ok_or_else(|| index.missing("weight_map"))?;
    let mut names = BTreeSet::new();
    for tensor in map.names().map(str::to_owned).collect::<Vec<_>>() {
        names.extend(map.optional_text(&tensor)?);
    }
    Ok(names)
}

fn no_weights(files: &ModelFiles, name: &str) -> Error {
    let other = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf"]
        .into_iter()
        .find(|other| matches!(files.num_bytes(other), Ok(Some(_))));
    let hint = match other {
        Some(other) => format!("there is no such file; {other} is not read, convert it first"),
        None => "there is no such file".to_owned(),
    };
    files.error(name, hint)
}

/// An opened checkpoint: mapped files and where each tensor lies in them.
#[derive(Debug)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Stored {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: HostBytes,
    range: std::ops::Range<usize>,
}

impl Checkpoint {
    /// Maps all weight files and reads their headers.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, _) in weight_files(files)? {
            let bytes = files.map(&name)?;
            read_header(files, &name, &bytes, &mut tensors)?;
        }
        if let Some(name) = tensors.keys().find(|name| is_quantised(name)) {
            return Err(Error::UnsupportedModel {
                field: "weights".into(),
                value: name.clone(),
                hint: "quantised weights are not implemented; use float32, bfloat16 or float16"
                    .into(),
            });
        }
        Ok(Self { tensors })
    }

    /// Whether there is a tensor `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor `name`, which must have `shape`; a vector comes back as `[1, len]`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(weight_error(name, self.missing(name)));
        };
        if stored.shape != shape {
            let found = &stored.shape;
            return Err(weight_error(name, format!("expected shape {shape:?}, found {found:?}")));
        }
        let dtype = match stored.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            safetensors::Dtype::F16 => Dtype::F16,
            other => {
                let message = format!("expected dtype F32, BF16 or F16, found {other:?}");
                return Err(weight_error(name, message));
            }
        };
        let matrix = match *shape {
            [len] => [1, len],
            [rows, cols] => [rows, cols],
            _ => {
                return Err(weight_error(name, format!("shape {shape:?} is not implemented")));
            }
        };
        Ok(HostTensor::new(dtype, matrix, stored.bytes.clone(), stored.range.clone()))
    }

    /// What to say about a tensor that is not there: a name with another prefix helps.
    fn missing(&self, name: &str) -> String {
        let is_similar = |other: &&String| {
            let (short, long) = if other.len() < name.len() {
                (other.as_str(), name)
            } else {
                (name, other.as_str())
            };
            long.strip_suffix(short).is_some_and(|prefix| prefix.ends_with('.'))
        };
        match self.tensors.keys().find(is_similar) {
            Some(similar) => format!("missing from the checkpoint, which has {similar}"),
            None => "missing from the checkpoint".to_owned(),
        }
    }
}

fn read_header(
    files: &ModelFiles,
    name: &str,
    bytes: &HostBytes,
    tensors: &mut BTreeMap<String, Stored>,
) -> Result<()> {
    let malformed = |message: String| files.error(name, message);
    let (header_len, metadata) = SafeTensors::read_metadata(bytes.as_slice())
        .map_err(|error| malformed(format!("not a valid safetensors file: {error}")))?;
    // The header follows its own length, a number of 8 bytes.
    let start = 8 + header_len;
    for (tensor, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        let range = start + from..start + to;
        let num_numbers = info.shape.iter().product::<usize>();
        let is_sound = range.end <= bytes.as_slice().len()
            && num_numbers.checked_mul(info.dtype.bitsize()) == Some(range.len() * 8);
        if !is_sound {
            return Err(malformed(format!("tensor {tensor} exceeds the file or its shape")));
        }
        let stored =
            Stored { dtype: info.dtype, shape: info.shape.clone(), bytes: bytes.clone(), range };
        if tensors.insert(tensor.clone(), stored).is_some() {
            return Err(malformed(format!("tensor {tensor} is in another file as well")));
        }
    }
    Ok(())
}

fn is_quantised(name: &str) -> bool {
    QUANTISED.iter().any(|end| name.ends_with(end))
}

fn weight_error(name: &str, message: String) -> Error {
    Error::Weight { name: name.to_owned(), message }
}

/// Loads a checkpoint's tensors onto a device.
pub(crate) struct CheckpointSource<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a mut dyn Device,
    /// Told the bytes of each tensor that was handed over.
    loaded: &'a mut dyn FnMut(usize),
}

impl<'a> CheckpointSource<'a> {
    /// A source that calls `loaded` with the bytes of each tensor.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        device: &'a mut dyn Device,
        loaded: &'a mut dyn FnMut(usize),
    ) -> Self {
        Self { checkpoint, device, loaded }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.checkpoint.tensor(name, shape)?;
        (self.loaded)(tensor.as_bytes().len());
        Ok(tensor)
    }
}

impl WeightSource for CheckpointSource<'_> {
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        let parts = parts.iter().map(|(name, rows)| self.take(name, &[*rows, cols]));
        let parts = parts.collect::<Result<_>>()?;
        self.device.load_matrices(parts)
    }

    fn biases(&mut self, parts: &[(String, usize)]) -> Result<Vec<Weight>> {
        let parts = parts.iter().map(|(name, len)| self.take(name, &[*len]));
        let parts = parts.collect::<Result<_>>()?;
        self.device.load_biases(parts)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Weight> {
        let numbers = self.take(name, &[len])?.to_f32();
        self.device.load_vector(numbers)
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.take(name, shape)?.to_f32())
    }

    fn computed(&mut self, numbers: Vec<f32>, shape: [usize; 2]) -> Result<Weight> {
        let tensor = HostTensor::of_f32(&numbers, shape);
        Ok(self.device.load_matrices(vec![tensor])?[0])
    }

    fn computed_vector(&mut self, len: usize, compute: &dyn Fn() -> Vec<f32>) -> Result<Weight> {
        let numbers = compute();
        assert_eq!(numbers.len(), len, "a vector computed at load time");
        self.device.load_vector(numbers)
    }

    fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    fn are_equal(&self, name: &str, other: &str) -> bool {
        let bytes = |name: &str| {
            let stored = self.checkpoint.tensors.get(name)?;
            Some((stored.dtype, &stored.bytes.as_slice()[stored.range.clone()]))
        };
        bytes(name) == bytes(other)
    }
}

/// Weights of the right shapes without content, for a dry run.
#[expect(clippy::struct_field_names, reason = "counts are called num_")]
#[derive(Debug, Default)]
pub(crate) struct DryWeights {
    /// Numbers that a checkpoint would be asked for.
    pub(crate) num_numbers: u64,
    /// Numbers that a device keeps in the format of activations.
    pub(crate) num_short: u64,
    /// Numbers that it keeps in single precision.
    pub(crate) num_single: u64,
}

impl DryWeights {
    /// A weight that a device converts.
    fn short(&mut self, rows: usize, cols: usize) -> Weight {
        self.num_short += rows as u64 * cols as u64;
        Weight { id: 0, rows, cols }
    }

    /// A vector that it does not.
    fn single(&mut self, len: usize) -> Weight {
        self.num_single += len as u64;
        Weight { id: 0, rows: 1, cols: len }
    }
}

impl WeightSource for DryWeights {
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        let num_rows = parts.iter().map(|(_, rows)| *rows as u64).sum::<u64>();
        self.num_numbers += num_rows * cols as u64;
        Ok(parts.iter().map(|(_, rows)| self.short(*rows, cols)).collect())
    }

    fn biases(&mut self, parts: &[(String, usize)]) -> Result<Vec<Weight>> {
        self.num_numbers += parts.iter().map(|(_, len)| *len as u64).sum::<u64>();
        Ok(parts.iter().map(|(_, len)| self.short(1, *len)).collect())
    }

    fn vector(&mut self, _name: &str, len: usize) -> Result<Weight> {
        self.num_numbers += len as u64;
        Ok(self.single(len))
    }

    fn numbers(&mut self, _name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.num_numbers += shape.iter().map(|&size| size as u64).product::<u64>();
        Ok(Vec::new())
    }

    fn computed(&mut self, _numbers: Vec<f32>, shape: [usize; 2]) -> Result<Weight> {
        let [rows, cols] = shape;
        Ok(self.short(rows, cols))
    }

    fn computed_vector(&mut self, len: usize, _compute: &dyn Fn() -> Vec<f32>) -> Result<Weight> {
        Ok(self.single(len))
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }

    fn are_equal(&self, _name: &str, _other: &str) -> bool {
        true
    }
}

/// Notes what a model takes from a checkpoint: names and shapes, for tests that make one up.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct TensorNames(pub(crate) Vec<(String, Vec<usize>)>);

#[cfg(test)]
impl WeightSource for TensorNames {
    fn matrices(&mut self, parts: &[(String, usize)], cols: usize) -> Result<Vec<Weight>> {
        self.0.extend(parts.iter().map(|(name, rows)| (name.clone(), vec![*rows, cols])));
        DryWeights::default().matrices(parts, cols)
    }

    fn biases(&mut self, parts: &[(String, usize)]) -> Result<Vec<Weight>> {
        self.0.extend(parts.iter().map(|(name, len)| (name.clone(), vec![*len])));
        DryWeights::default().biases(parts)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Weight> {
        self.0.push((name.to_owned(), vec![len]));
        DryWeights::default().vector(name, len)
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.0.push((name.to_owned(), shape.to_vec()));
        Ok(vec![0.0; shape.iter().product()])
    }

    fn computed(&mut self, numbers: Vec<f32>, shape: [usize; 2]) -> Result<Weight> {
        DryWeights::default().computed(numbers, shape)
    }

    fn computed_vector(&mut self, len: usize, compute: &dyn Fn() -> Vec<f32>) -> Result<Weight> {
        DryWeights::default().computed_vector(len, compute)
    }

    fn contains(&self, _name: &str) -> bool {
        false
    }

    fn are_equal(&self, _name: &str, _other: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};

    use super::*;
    use crate::model::Embedded;

    /// A safetensors file of tensors of zeros.
    fn file(tensors: &[(&str, safetensors::Dtype, &[usize])]) -> &'static [u8] {
        let zeros = [0u8; 256];
        let views = tensors.iter().map(|(name, dtype, shape)| {
            let num_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let view = TensorView::new(*dtype, shape.to_vec(), &zeros[..num_bytes]);
            (*name, view.unwrap())
        });
        serialize(views, None).unwrap().leak()
    }

    fn model(files: Vec<(&'static str, &'static [u8])>) -> ModelFiles {
        ModelFiles::Embedded(Box::leak(Box::new(Embedded { name: "test", files: files.leak() })))
    }

    #[test]
    fn shapes_and_formats_are_checked_against_what_is_expected() {
        use safetensors::Dtype::{BF16, F16, F32, I64};
        let bytes =
            file(&[("a", F32, &[2, 3]), ("b", BF16, &[4]), ("c", I64, &[2]), ("d", F16, &[1])]);
        let checkpoint = Checkpoint::open(&model(vec![(SINGLE, bytes)])).unwrap();
        let a = checkpoint.tensor("a", &[2, 3]).unwrap();
        assert_eq!((a.rows(), a.cols(), a.dtype()), (2, 3, Dtype::F32));
        let b = checkpoint.tensor("b", &[4]).unwrap();
        assert_eq!((b.rows(), b.cols(), b.dtype()), (1, 4, Dtype::Bf16));
        assert_eq!(checkpoint.tensor("d", &[1]).unwrap().dtype(), Dtype::F16);
        let message =
            |name: &str, shape: &[usize]| checkpoint.tensor(name, shape).unwrap_err().to_string();
        assert_eq!(message("a", &[3, 2]), "weight a: expected shape [3, 2], found [2, 3]");
        assert_eq!(message("c", &[2]), "weight c: expected dtype F32, BF16 or F16, found I64");
        assert_eq!(message("x", &[2]), "weight x: missing from the checkpoint");
    }

    #[test]
    fn a_foreign_prefix_is_pointed_out() {
        let name = "language_model.model.layers.0.mlp.up_proj.weight";
        let bytes = file(&[(name, safetensors::Dtype::F32, &[1])]);
        let checkpoint = Checkpoint::open(&model(vec![(SINGLE, bytes)])).unwrap();
        let error = checkpoint.tensor("model.layers.0.mlp.up_proj.weight", &[1]).unwrap_err();
        assert!(error.to_string().ends_with(&format!("which has {name}")), "{error}");
    }

    #[test]
    fn quantised_checkpoints_are_refused() {
        let name = "model.layers.0.mlp.up_proj.qweight";
        let bytes = file(&[(name, safetensors::Dtype::I32, &[4])]);
        let error = Checkpoint::open(&model(vec![(SINGLE, bytes)])).unwrap_err();
        assert!(matches!(error, Error::UnsupportedModel { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }

    #[test]
    fn shards_are_found_by_the_index_and_must_all_be_there() {
        let index = br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        let (a, b) = (
            file(&[("a", safetensors::Dtype::F32, &[2])]),
            file(&[("b", safetensors::Dtype::F32, &[3])]),
        );
        let mut files: Vec<(_, &'static [u8])> = vec![(INDEX, index), ("1.safetensors", a)];
        let error = Checkpoint::open(&model(files.clone())).unwrap_err().to_string();
        assert_eq!(error, "test/2.safetensors: there is no such file");
        files.push(("2.safetensors", b));
        let checkpoint = Checkpoint::open(&model(files)).unwrap();
        assert!(checkpoint.contains("a") && checkpoint.contains("b"));
    }

    #[test]
    fn damaged_files_are_errors_and_not_panics() {
        let whole = file(&[("a", safetensors::Dtype::F32, &[8, 4])]);
        for len in 0..whole.len() {
            let error = Checkpoint::open(&model(vec![(SINGLE, &whole[..len])])).unwrap_err();
            assert!(error.to_string().starts_with("test/model.safetensors: "), "{error}");
        }
        let mut damaged = whole.to_vec();
        for index in 0..damaged.len().min(80) {
            damaged[index] ^= 0x5a;
            // Some damage is harmless, such as another name; none may panic.
            let bytes = damaged.clone().leak();
            if let Ok(checkpoint) = Checkpoint::open(&model(vec![(SINGLE, bytes)])) {
                checkpoint.tensor("a", &[8, 4]).ok();
            }
            damaged[index] ^= 0x5a;
        }
        let error = Checkpoint::open(&model(vec![("pytorch_model.bin", b"")])).unwrap_err();
        assert!(error.to_string().contains("pytorch_model.bin is not read"), "{error}");
    }
}
