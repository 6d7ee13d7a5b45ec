//! What `--cost` says: `roofline:GPU[:PRECISION] [key=value ...]`, `fitted:FILE`, or
//! `table:FILE [noise=SEED]`.

use std::path::Path;
use std::sync::Arc;

use folio_engine::types::CostModel;

use super::{
    CostError, Efficiency, Fitted, FittedFile, GPUS, Gpu, Hardware, ModelShape, Precision,
    Roofline, Table, TableFile,
};

/// What a specification does not say itself.
#[derive(Clone, Debug)]
pub struct CostContext {
    /// The model, for a roofline.
    pub model: ModelShape,
    /// Tokens in a KV block.
    pub block_size: u32,
}

/// The cost model that `spec` describes.
pub fn from_spec(spec: &str, context: &CostContext) -> Result<Arc<dyn CostModel>, CostError> {
    let spec = Spec::read(spec)?;
    Ok(match spec.kind {
        Kind::Roofline => {
            let (hardware, efficiency) = roofline(&spec)?;
            let model = context.model.clone();
            let roofline = Roofline::new(spec.text, model, hardware, efficiency);
            Arc::new(roofline.with_block_size(context.block_size))
        }
        Kind::Fitted => {
            spec.check_keys(&[])?;
            Arc::new(Fitted::new(spec.text, &fitted_file(spec.rest)?))
        }
        Kind::Table => {
            spec.check_keys(&["noise"])?;
            let seed = spec.options.first().map(|&(key, value)| {
                let limit = "a whole number".to_owned();
                value.parse().map_err(|_| spec.bad_value(key, value, limit))
            });
            let seed = seed.transpose()?;
            let path = Path::new(spec.rest);
            let file = TableFile::parse(&read(path)?, path)?;
            Arc::new(Table::new(spec.text, file, seed))
        }
    })
}

/// The devices that a roofline's `spec` describes; `None` for the other kinds, which do not say.
pub fn hardware(spec: &str) -> Result<Option<Hardware>, CostError> {
    let spec = Spec::read(spec)?;
    match spec.kind {
        Kind::Roofline => Ok(Some(roofline(&spec)?.0)),
        Kind::Fitted | Kind::Table => Ok(None),
    }
}

/// The fitted cost model of `spec`, with what the host needs; `None` for the other kinds.
pub fn fitted(spec: &str) -> Result<Option<Fitted>, CostError> {
    let spec = Spec::read(spec)?;
    match spec.kind {
        Kind::Fitted => Ok(Some(Fitted::new(spec.text, &fitted_file(spec.rest)?))),
        Kind::Roofline | Kind::Table => Ok(None),
    }
}

fn fitted_file(path: &str) -> Result<FittedFile, CostError> {
    let path = Path::new(path);
    FittedFile::parse(&read(path)?, path)
}

fn read(path: &Path) -> Result<String, CostError> {
    std::fs::read_to_string(path)
        .map_err(|error| CostError::File { path: path.to_owned(), message: error.to_string() })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Roofline,
    Fitted,
    Table,
}

/// A specification in its parts.
struct Spec<'a> {
    text: &'a str,
    kind: Kind,
    /// What comes between the kind and the options.
    rest: &'a str,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Spec<'a> {
    fn read(text: &'a str) -> Result<Self, CostError> {
        let text = text.trim();
        let unknown = || CostError::Kind { spec: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        let kind = match kind {
            "roofline" => Kind::Roofline,
            "fitted" => Kind::Fitted,
            "table" => Kind::Table,
            _ => return Err(unknown()),
        };
        // Options are the last words with an equals sign; a file's name may have spaces.
        let mut rest = rest.trim();
        let mut options = Vec::new();
        while let Some((before, word)) = rest.rsplit_once(char::is_whitespace)
            && let Some(option) = word.split_once('=')
        {
            options.push(option);
            rest = before.trim_end();
        }
        options.reverse();
        Ok(Self { text, kind, rest, options })
    }

    fn unknown(&self, what: &'static str, value: &str, known: &[&str]) -> CostError {
        CostError::Unknown {
            spec: self.text.to_owned(),
            what,
            value: value.to_owned(),
            known: known.join(", "),
        }
    }

    fn bad_value(&self, key: &str, value: &str, limit: String) -> CostError {
        CostError::Value {
            spec: self.text.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            limit,
        }
    }

    /// Refuses options that are not among `known`.
    fn check_keys(&self, known: &[&str]) -> Result<(), CostError> {
        let listed = if known.is_empty() { &["none"] } else { known };
        match self.options.iter().find(|(key, _)| !known.contains(key)) {
            Some((key, _)) => Err(self.unknown("the option", key, listed)),
            None => Ok(()),
        }
    }
}

/// What may be said of a roofline beside the device.
const ROOFLINE_KEYS: [&str; 10] = [
    "gpus",
    "flops",
    "bandwidth",
    "memory",
    "matmul_share",
    "attention_share",
    "bandwidth_share",
    "layer_us",
    "sequence_us",
    "step_us",
];

/// What is left of the rates of several devices that compute one layer together, for each
/// doubling: they wait for each other twice a layer.
const DOUBLING_SHARE: f64 = 0.92;

fn roofline(spec: &Spec<'_>) -> Result<(Hardware, Efficiency), CostError> {
    let (name, precision) = match spec.rest.split_once(':') {
        Some((name, precision)) => (name, Some(precision)),
        None => (spec.rest, None),
    };
    let names: Vec<&str> = GPUS.iter().map(|gpu| gpu.name).collect();
    let gpu = Gpu::named(name).ok_or_else(|| spec.unknown("the device", name, &names))?;
    let precision = precision.map_or(Ok(Precision::Bf16), |name| {
        let found = Precision::NAMES.iter().find(|(known, _)| *known == name);
        let known = Precision::NAMES.map(|(name, _)| name);
        found.map(|found| found.1).ok_or_else(|| spec.unknown("the precision", name, &known))
    })?;
    let mut hardware = Hardware::new(&gpu, precision)
        .ok_or_else(|| spec.bad_value("precision", "fp8", format!("bf16 or f16 on {name}")))?;
    let mut efficiency = if gpu.is_cpu() { Efficiency::CPU } else { Efficiency::GPU };
    spec.check_keys(&ROOFLINE_KEYS)?;
    let mut num_gpus = 1.0f64;
    for &(key, text) in &spec.options {
        let (most, limit) = match key {
            "matmul_share" | "attention_share" | "bandwidth_share" => {
                (1.0, "a number above 0 and at most 1")
            }
            "gpus" => (1024.0, "a number from 1 to 1024"),
            _ => (f64::MAX, "a number above 0"),
        };
        let value: f64 = text
            .parse()
            .ok()
            .filter(|value| *value > 0.0 && *value <= most)
            .ok_or_else(|| spec.bad_value(key, text, limit.to_owned()))?;
        match key {
            "gpus" => num_gpus = value.max(1.0),
            "flops" => hardware.flops = value,
            "bandwidth" => hardware.bandwidth = value,
            "memory" => hardware.memory_bytes = value,
            "matmul_share" => efficiency.matmul = value,
            "attention_share" => efficiency.attention = value,
            "bandwidth_share" => efficiency.bandwidth = value,
            "layer_us" => efficiency.layer_s = value * 1e-6,
            "sequence_us" => efficiency.sequence_s = value * 1e-6,
            _ => efficiency.step_s = value * 1e-6,
        }
    }
    let speedup = num_gpus * DOUBLING_SHARE.powf(num_gpus.log2());
    hardware.flops *= speedup;
    hardware.bandwidth *= speedup;
    hardware.memory_bytes *= num_gpus;
    hardware.host_bandwidth *= num_gpus;
    Ok((hardware, efficiency))
}

#[cfg(test)]
mod tests {
    use folio_engine::types::{BatchShape, Emission, Nanos};

    use super::*;

    fn context() -> CostContext {
        CostContext { model: ModelShape::find("llama-3-8b").unwrap(), block_size: 16 }
    }

    fn predict(spec: &str) -> Nanos {
        let model = from_spec(spec, &context()).unwrap();
        assert_eq!(model.name(), spec);
        model.predict(&BatchShape::row(0..1000, Emission::Result))
    }

    #[test]
    fn a_roofline_is_made_of_a_device_and_what_is_said_beside_it() {
        let h100 = predict("roofline:h100");
        assert_eq!(predict("roofline:H100:bf16").0, h100.0);
        assert!(predict("roofline:l4") > h100);
        assert!(predict("roofline:h100:fp8") < h100);
        assert!(predict("roofline:h100 gpus=4") < h100);
        assert!(predict("roofline:h100 matmul_share=0.4 step_us=5000").0 > h100.0 + 5_000_000);
        assert!(predict("roofline:cpu flops=1e12").0 < predict("roofline:cpu").0);
    }

    #[test]
    fn several_devices_have_the_memory_of_all() {
        let memory = |spec| hardware(spec).unwrap().unwrap().memory_bytes;
        assert!((memory("roofline:h100 gpus=2") - 160e9).abs() < 1.0);
        assert!((memory("roofline:h100 memory=1e9") - 1e9).abs() < 1.0);
        assert!(hardware("table:x").unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        for (spec, expected) in [
            ("h100", "begins with none of roofline:GPU"),
            ("roof:h100", "begins with none of"),
            ("roofline:h101", "the device `h101` is not known; there are h100, h200"),
            ("roofline:h100:int4", "the precision `int4` is not known; there are bf16"),
            ("roofline:a100-80g:fp8", "precision = fp8 must be bf16 or f16 on a100-80g"),
            ("roofline:h100 speed=2", "the option `speed` is not known; there are gpus"),
            ("roofline:h100 flops=fast", "flops = fast must be a number above 0"),
            ("roofline:h100 flops=0", "flops = 0 must be"),
            ("roofline:h100 matmul_share=1.5", "matmul_share = 1.5 must be a number above 0 and"),
            ("roofline:h100 step_us=NaN", "step_us = NaN must be"),
            ("fitted:/nowhere/a b.toml", "/nowhere/a b.toml: "),
            ("fitted:x.toml noise=1", "the option `noise` is not known; there are none"),
            ("table:/nowhere.toml noise=1", "/nowhere.toml: "),
            ("table:/nowhere.toml noise=x", "noise = x must be a whole number"),
        ] {
            let error = from_spec(spec, &context()).unwrap_err().to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
