//! Rotary position embeddings: which frequencies a configuration asks for, and their table.
//!
//! Frequencies are rounded to f32 where the reference implementations round them, since models
//! were trained with those roundings; sines and cosines are then exact to f32.

use std::f64::consts::TAU;

use super::fields::Fields;
use crate::types::{Error, Result};

/// What a configuration says about rotary embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeConfig {
    /// Base of the geometric row of frequencies.
    pub(crate) theta: f64,
    /// How the frequencies are stretched for longer contexts.
    pub(crate) scaling: RopeScaling,
}

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// As trained.
    None,
    /// All by one factor.
    Linear {
        /// The factor, at least 1 in practice.
        factor: f64,
    },
    /// Low frequencies by the factor, high ones not, with a ramp between (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Frequencies with a wave longer than `original_len / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Those with a wave shorter than `original_len / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the training, in tokens.
        original_len: f64,
    },
    /// YaRN (Peng et al., 2023, arXiv 2309.00071).
    Yarn(Yarn),
}

/// Parameters of YaRN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Yarn {
    /// The factor.
    pub(crate) factor: f64,
    /// Context length of the training, in tokens.
    pub(crate) original_len: f64,
    /// Frequencies that turn more often than this within the training length are kept.
    pub(crate) beta_fast: f64,
    /// Those that turn less often than this are stretched by the whole factor.
    pub(crate) beta_slow: f64,
    /// Multiplies sines and cosines, and so sharpens attention.
    pub(crate) attention_factor: f64,
    /// Whether the ramp starts and ends at whole dimensions.
    pub(crate) ramp: YarnRamp,
}

/// Where the ramp of YaRN starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum YarnRamp {
    /// At whole dimensions: the usual.
    Whole,
    /// Between dimensions (`truncate: false`).
    Exact,
}

impl RopeConfig {
    /// Reads either generation of keys: `rope_theta` with `rope_scaling`, or `rope_parameters`.
    pub(crate) fn read(config: &Fields, default_theta: f64) -> Result<Self> {
        let parameters = match config.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => config.object("rope_scaling")?,
        };
        let theta = match parameters.as_ref().map(|p| p.optional_positive("rope_theta")) {
            Some(inner) => inner?,
            None => None,
        };
        let theta = match theta {
            Some(theta) => theta,
            None => config.optional_positive("rope_theta")?.unwrap_or(default_theta),
        };
        reject_partial(config)?;
        let Some(parameters) = parameters else {
            return Ok(Self { theta, scaling: RopeScaling::None });
        };
        reject_partial(&parameters)?;
        let scaling = read_scaling(&parameters, config)?;
        Ok(Self { theta, scaling })
    }

    /// Longest context that the scaling was made for, where that exceeds `max_positions`: YaRN
    /// checkpoints may state the length before scaling.
    pub(crate) fn max_len(&self, max_positions: u32) -> u32 {
        match self.scaling {
            RopeScaling::Yarn(yarn) => max_positions.max((yarn.factor * yarn.original_len) as u32),
            _ => max_positions,
        }
    }

    /// One angle a position step for each pair of dimensions, length D / 2.
    pub(crate) fn frequencies(&self, head_size: usize) -> Vec<f32> {
        let base = |pair: usize| {
            let exponent = (2 * pair) as f32 / head_size as f32;
            (1.0 / f64::from((self.theta as f32).powf(exponent))) as f32
        };
        let pairs = 0..head_size / 2;
        match self.scaling {
            RopeScaling::None => pairs.map(base).collect(),
            RopeScaling::Linear { factor } => pairs.map(|p| base(p) / factor as f32).collect(),
            RopeScaling::Llama3 { .. } => {
                pairs.map(|p| self.llama3(f64::from(base(p))) as f32).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.ramp_bounds(head_size as f64, self.theta);
                pairs
                    .map(|pair| {
                        let kept = 1.0 - ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        let base = f64::from(base(pair));
                        (base / yarn.factor * (1.0 - kept) + base * kept) as f32
                    })
                    .collect()
            }
        }
    }

    /// `function`, sine or cosine, of the angles of positions `0..num_positions`:
    /// `[num_positions, D / 2]`.
    pub(crate) fn table(
        &self,
        head_size: usize,
        num_positions: usize,
        function: fn(f64) -> f64,
    ) -> Vec<f32> {
        let frequencies = self.frequencies(head_size);
        let factor = match self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor as f32,
            _ => 1.0,
        };
        let mut table = Vec::with_capacity(num_positions * frequencies.len());
        for position in 0..num_positions {
            let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
            table.extend(angles.map(|angle| function(f64::from(angle)) as f32 * factor));
        }
        table
    }

    fn llama3(&self, frequency: f64) -> f64 {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_len } =
            self.scaling
        else {
            return frequency;
        };
        let wave_len = TAU / frequency;
        if wave_len > original_len / low_freq_factor {
            return frequency / factor;
        }
        if wave_len < original_len / high_freq_factor {
            return frequency;
        }
        let kept =
            (original_len / wave_len - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

impl Yarn {
    /// First and last dimension pair of the ramp.
    fn ramp_bounds(&self, head_size: f64, theta: f64) -> (f64, f64) {
        let pair_turning =
            |turns: f64| head_size * (self.original_len / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (pair_turning(self.beta_fast), pair_turning(self.beta_slow));
        if self.ramp == YarnRamp::Whole {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(head_size - 1.0));
        // A ramp of no width would divide by zero.
        let is_empty = (high - low).abs() < f64::EPSILON;
        (low, if is_empty { low + 0.001 } else { high })
    }
}

fn reject_partial(fields: &Fields) -> Result<()> {
    match fields.optional_number("partial_rotary_factor")? {
        None | Some(1.0) => Ok(()),
        Some(_) => Err(fields.unsupported("partial_rotary_factor", "only 1.0 is implemented")),
    }
}

fn read_scaling(parameters: &Fields, config: &Fields) -> Result<RopeScaling> {
    let field = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let factor = || {
        let factor = parameters.optional_positive("factor")?;
        factor.ok_or_else(|| parameters.missing("factor"))
    };
    match parameters.optional_text(field)?.as_deref() {
        Some("default") => Ok(RopeScaling::None),
        None if parameters.get("factor").is_none() && is_flat(parameters) => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => read_llama3(parameters, factor()?),
        Some("yarn") => read_yarn(parameters, config, factor()?).map(RopeScaling::Yarn),
        _ => Err(parameters.unsupported(field, "one of default, linear, llama3, yarn")),
    }
}

/// Whether no parameter is itself an object: those would be parameters for kinds of layers.
fn is_flat(parameters: &Fields) -> bool {
    let is_object = |name: &str| parameters.get(name).is_some_and(serde_json::Value::is_object);
    !parameters.names().any(is_object)
}

fn read_llama3(parameters: &Fields, factor: f64) -> Result<RopeScaling> {
    let needed = |field: &str| {
        let value = parameters.optional_positive(field)?;
        value.ok_or_else(|| parameters.missing(field))
    };
    let (low_freq_factor, high_freq_factor) =
        (needed("low_freq_factor")?, needed("high_freq_factor")?);
    if high_freq_factor <= low_freq_factor {
        return Err(parameters.error(format!(
            "high_freq_factor = {high_freq_factor} is not above low_freq_factor = {low_freq_factor}"
        )));
    }
    Ok(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_len: needed("original_max_position_embeddings")?,
    })
}

fn read_yarn(parameters: &Fields, config: &Fields, factor: f64) -> Result<Yarn> {
    let number = |field: &str| parameters.optional_positive(field);
    let original_len = match number("original_max_position_embeddings")? {
        Some(original) => original,
        None => f64::from(config.size("max_position_embeddings")?),
    };
    let scale_of = |scale: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
    };
    let derived = match (number("mscale")?, number("mscale_all_dim")?) {
        (Some(scale), Some(scale_all)) => scale_of(scale) / scale_of(scale_all),
        _ => scale_of(1.0),
    };
    let ramp = match parameters.optional_bool("truncate")? {
        Some(false) => YarnRamp::Exact,
        _ => YarnRamp::Whole,
    };
    let yarn = Yarn {
        factor,
        original_len,
        beta_fast: number("beta_fast")?.unwrap_or(32.0),
        beta_slow: number("beta_slow")?.unwrap_or(1.0),
        attention_factor: number("attention_factor")?.unwrap_or(derived),
        ramp,
    };
    if yarn.beta_fast < yarn.beta_slow {
        return Err(Error::UnsupportedModel {
            field: "beta_fast".into(),
            value: yarn.beta_fast.to_string(),
            hint: format!("must be at least beta_slow = {}", yarn.beta_slow),
        });
    }
    Ok(yarn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RopeConfig> {
        RopeConfig::read(&Fields::of(text), 10_000.0)
    }

    #[test]
    fn both_generations_of_keys_mean_the_same() {
        let old = read(r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}"#);
        let new = r#"{"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}}"#;
        assert_eq!(old.unwrap(), read(new).unwrap());
        assert_eq!(read("{}").unwrap(), read(r#"{"rope_theta": 1e4}"#).unwrap());
        let plain = read(r#"{"rope_parameters": {"rope_theta": 7, "rope_type": "default"}}"#);
        assert_eq!(plain.unwrap().scaling, RopeScaling::None);
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        let cases = [
            (r#"{"rope_scaling": {"type": "dynamic", "factor": 2}}"#, "rope_scaling.type"),
            (r#"{"rope_scaling": {"rope_type": "longrope"}}"#, "rope_scaling.rope_type"),
            (
                r#"{"rope_parameters": {"full_attention": {"rope_theta": 1}}}"#,
                "rope_parameters.type",
            ),
            (r#"{"partial_rotary_factor": 0.5}"#, "partial_rotary_factor"),
        ];
        for (text, field) in cases {
            match read(text).unwrap_err() {
                Error::UnsupportedModel { field: found, .. } => assert_eq!(found, field),
                other => panic!("{text}: {other}"),
            }
        }
        assert!(read(r#"{"rope_scaling": {"type": "linear"}}"#).is_err());
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let rope = read(
            r#"{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}}"#,
        )
        .unwrap();
        let plain = RopeConfig { theta: rope.theta, scaling: RopeScaling::None };
        let (scaled, plain) = (rope.frequencies(128), plain.frequencies(128));
        assert_eq!(scaled[0].to_bits(), plain[0].to_bits());
        assert_eq!(scaled[63].to_bits(), (plain[63] / 8.0).to_bits());
        assert!(scaled.is_sorted_by(|a, b| a > b), "{scaled:?}");
    }
}
