//! A step's time as a sum of terms with prices that were fitted to measured steps.
//!
//! Steps in which every row is one token are fitted apart from all others: devices run them
//! another way. Prices are never negative, and the fit is by relative error, so that short steps
//! count as much as long ones. A part of the steps is held back to tell the error.

use std::collections::BTreeMap;
use std::path::Path;

use folio_engine::types::{BatchShape, CostModel, Nanos};
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde::{Deserialize, Serialize};

use super::{CostError, Error, HostFit, NUM_TERMS, Sample, TERMS, nnls, terms, text};

/// The layout of the file.
const VERSION: u32 = 1;
/// One in this many steps is held back.
const HELD_BACK: usize = 5;
/// Steps that a fit needs, those held back among them.
const MIN_SAMPLES: usize = 10;
/// The order in which steps are held back.
const SEED: u64 = 5;

/// What was measured: two files that differ in this are not comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The model.
    pub model: String,
    /// What computed it, with its threads.
    pub device: String,
    /// The program that measured.
    pub program: String,
    /// A digest of the model's configuration, the device and the program.
    pub digest: String,
    /// Tokens in a KV block.
    pub block_size: u32,
}

/// Prices of terms, and how well they fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupFit {
    /// Steps that were fitted to.
    pub num_fitted: usize,
    /// Middle of how far steps of one shape were apart: no fit can be much better than this.
    pub spread: f64,
    /// Error on the steps that were fitted to.
    pub fitted: Error,
    /// Error on those that were held back.
    pub held_back: Error,
    /// Nanoseconds for one of each term; none for those that are left out.
    pub terms_ns: BTreeMap<String, f64>,
}

/// What is in the file of a fitted cost model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FittedFile {
    /// The layout of the file.
    pub version: u32,
    /// What was measured.
    pub identity: Identity,
    /// The host's work.
    pub host: HostFit,
    /// Steps in which every row is one token.
    pub decode: GroupFit,
    /// All other steps.
    pub mixed: GroupFit,
}

/// A cost model from such a file.
#[derive(Clone, Debug)]
pub struct Fitted {
    name: String,
    decode: [f64; NUM_TERMS],
    mixed: [f64; NUM_TERMS],
    host: HostFit,
    identity: Identity,
}

/// Fits prices to `samples`. Fails where there are too few of them, of either kind.
pub fn fit(samples: &[Sample], identity: Identity) -> Result<FittedFile, CostError> {
    let of_kind = |is_decode: bool| -> Vec<Sample> {
        let samples = samples.iter().filter(|sample| sample.shape.is_pure_decode() == is_decode);
        samples.filter(|sample| sample.device_ns > 0.0).copied().collect()
    };
    let decode = of_kind(true);
    let decode_and_mixed = (fit_group("decode", &decode)?, fit_group("mixed", &of_kind(false))?);
    let (decode_fit, mixed) = decode_and_mixed;
    Ok(FittedFile {
        version: VERSION,
        identity,
        // Steps that only decode are those whose host time is that of a running engine: the
        // others were admitted for the sake of the measurement.
        host: HostFit::new(&decode),
        decode: decode_fit,
        mixed,
    })
}

fn fit_group(group: &'static str, samples: &[Sample]) -> Result<GroupFit, CostError> {
    if samples.len() < MIN_SAMPLES {
        let num_samples = samples.len();
        return Err(CostError::TooFew { group, num_samples, needed: MIN_SAMPLES });
    }
    let mut shuffled = samples.to_vec();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(SEED));
    let (held_back, fitted) = shuffled.split_at(samples.len() / HELD_BACK);
    let prices = prices(fitted);
    let error = |samples: &[Sample]| {
        Error::of(samples.iter().map(|one| (price(&prices, &one.shape), one.device_ns)))
    };
    let mut spreads: Vec<f64> = samples.iter().map(|sample| sample.spread).collect();
    spreads.sort_by(f64::total_cmp);
    let named = TERMS.iter().zip(prices).filter(|(_, price)| *price > 0.0);
    Ok(GroupFit {
        num_fitted: fitted.len(),
        spread: spreads[spreads.len() / 2],
        fitted: error(fitted),
        held_back: error(held_back),
        terms_ns: named.map(|((name, _), price)| ((*name).to_owned(), price)).collect(),
    })
}

/// The prices with the least relative error.
fn prices(samples: &[Sample]) -> [f64; NUM_TERMS] {
    let row = |sample: &Sample| -> Vec<f64> {
        terms(&sample.shape).iter().map(|term| term / sample.device_ns).collect()
    };
    let rows: Vec<_> = samples.iter().map(row).collect();
    let found = nnls(&rows, &vec![1.0; rows.len()]);
    std::array::from_fn(|term| found.get(term).copied().unwrap_or(0.0))
}

fn price(prices: &[f64; NUM_TERMS], shape: &BatchShape) -> f64 {
    terms(shape).iter().zip(prices).map(|(term, price)| term * price).sum()
}

impl FittedFile {
    /// The file as text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let body = text::to_toml(self);
        let mut text = String::from("# Nanoseconds for one of each term of a step:\n");
        for (name, what) in TERMS {
            text.extend(["#   ", name, ": ", what, "\n"]);
        }
        text + "\n" + &body
    }

    /// Reads the text of the file at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CostError> {
        let failed = |message: String| CostError::File { path: path.to_owned(), message };
        let file: Self = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
        if file.version != VERSION {
            let version = file.version;
            return Err(failed(format!("version = {version}: only {VERSION} can be read")));
        }
        for (group, fit) in [("decode", &file.decode), ("mixed", &file.mixed)] {
            for (name, value) in &fit.terms_ns {
                if TERMS.iter().all(|(known, _)| known != name) {
                    return Err(failed(format!("{group}.terms_ns.{name}: there is no such term")));
                }
                if !(value.is_finite() && *value >= 0.0) {
                    let message = format!("{group}.terms_ns.{name} = {value}: must be at least 0");
                    return Err(failed(message));
                }
            }
            if fit.terms_ns.is_empty() {
                return Err(failed(format!("{group}.terms_ns: is empty")));
            }
        }
        for (key, value) in [("step_ns", file.host.step_ns), ("sequence_ns", file.host.sequence_ns)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(failed(format!("host.{key} = {value}: must be at least 0")));
            }
        }
        Ok(file)
    }
}

impl Fitted {
    /// The cost model of a file, called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, file: &FittedFile) -> Self {
        let prices =
            |fit: &GroupFit| TERMS.map(|(name, _)| fit.terms_ns.get(name).copied().unwrap_or(0.0));
        Self {
            name: name.into(),
            decode: prices(&file.decode),
            mixed: prices(&file.mixed),
            host: file.host,
            identity: file.identity.clone(),
        }
    }

    /// The host's work on a step.
    #[must_use]
    pub fn host(&self) -> HostFit {
        self.host
    }

    /// What was measured.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Nanoseconds of each term in a step of this shape, in the order of [`TERMS`].
    #[must_use]
    pub fn breakdown(&self, shape: &BatchShape) -> [f64; NUM_TERMS] {
        let prices = self.prices(shape);
        let amounts = terms(shape);
        std::array::from_fn(|term| amounts[term] * prices[term])
    }

    /// Nanoseconds for one of each term of a step of this kind, in the order of [`TERMS`].
    #[must_use]
    pub fn prices(&self, shape: &BatchShape) -> &[f64; NUM_TERMS] {
        if shape.is_pure_decode() { &self.decode } else { &self.mixed }
    }
}

impl CostModel for Fitted {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        Nanos(price(self.prices(shape), shape).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use folio_engine::types::Emission;

    use super::*;

    /// 60 decode and 60 mixed steps that take what the planted prices say, times `noise`.
    fn samples(noise: impl Fn(usize) -> f64) -> Vec<Sample> {
        let mut samples = Vec::new();
        for index in 0..120u32 {
            let mut shape = BatchShape::default();
            for row in 0..=(index * 7 % 40) {
                let position = (index * 37 + row * 101) % 4000;
                shape.add(position..position + 1, Emission::Result);
            }
            if index % 2 == 0 {
                let start = index * 53 % 3000;
                let emission = if index % 4 == 0 { Emission::Result } else { Emission::Nothing };
                shape.add(start..start + 20 + index * 29 % 900, emission);
            }
            let device_ns = planted(&shape) * noise(index as usize);
            samples.push(Sample { shape, device_ns, spread: 0.0, host_ns: 1000.0 });
        }
        samples
    }

    fn planted(shape: &BatchShape) -> f64 {
        if shape.is_pure_decode() {
            return 50_000.0
                + 3000.0 * f64::from(shape.num_seqs)
                + 12.0 * shape.decode_context as f64;
        }
        80_000.0
            + 900.0 * f64::from(shape.num_tokens)
            + 1500.0 * f64::from(shape.num_emitting)
            + 0.5 * shape.prefill_work as f64
            + 14.0 * shape.decode_context as f64
    }

    #[test]
    fn planted_prices_are_found_and_steps_held_back_are_predicted() {
        let file = fit(&samples(|_| 1.0), Identity::default()).unwrap();
        for fit in [&file.decode, &file.mixed] {
            assert!(fit.held_back.max < 1e-6, "{fit:?}");
            assert_eq!((fit.num_fitted, fit.held_back.num_steps), (48, 12));
        }
        let price = |fit: &GroupFit, name: &str| fit.terms_ns[name];
        assert!((price(&file.decode, "decode_context") - 12.0).abs() < 1e-5);
        assert!((price(&file.mixed, "prefill_pair") - 0.5).abs() < 1e-6);
        assert!((price(&file.mixed, "decode_context") - 14.0).abs() < 1e-4);
        assert!((price(&file.mixed, "token_to_256") - 900.0).abs() < 1e-3, "{file:?}");
    }

    /// Noise of up to 5 %, half of it up and half of it down: prices come within a few percent.
    #[test]
    fn noise_moves_prices_by_no_more_than_itself() {
        let noise = |index: usize| 1.0 + 0.05 * (index as f64 * 1.7).sin();
        let file = fit(&samples(noise), Identity::default()).unwrap();
        assert!(file.decode.held_back.mean < 0.05 && file.mixed.held_back.mean < 0.05, "{file:?}");
        let context = file.decode.terms_ns["decode_context"];
        assert!((context / 12.0 - 1.0).abs() < 0.1, "{context}");
        let pair = file.mixed.terms_ns["prefill_pair"];
        assert!((pair / 0.5 - 1.0).abs() < 0.1, "{pair}");
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let identity = Identity { model: "m".into(), block_size: 16, ..Identity::default() };
        let file = fit(&samples(|_| 1.0), identity).unwrap();
        let read = FittedFile::parse(&file.to_toml(), Path::new("x")).unwrap();
        assert_eq!(read, file);
        let (written, model) = (Fitted::new("a", &file), Fitted::new("b", &read));
        for sample in samples(|_| 1.0) {
            let predicted = model.predict(&sample.shape);
            assert_eq!(written.predict(&sample.shape), predicted);
            let sum = model.breakdown(&sample.shape).iter().sum::<f64>();
            assert!((sum - predicted.0 as f64).abs() <= 0.5);
        }
    }

    #[test]
    fn too_few_steps_and_bad_files_are_refused_by_name() {
        let error = fit(&samples(|_| 1.0)[..12], Identity::default()).unwrap_err().to_string();
        assert!(error.contains("6 decode steps") && error.contains("10"), "{error}");
        let good = fit(&samples(|_| 1.0), Identity::default()).unwrap().to_toml();
        let parse =
            |text: &str| FittedFile::parse(text, Path::new("costs.toml")).unwrap_err().to_string();
        for (from, to, expected) in [
            ("version = 1", "version = 2", "version = 2: only 1 can be read"),
            ("decode_context = ", "decode_contxt = ", "decode.terms_ns.decode_contxt: there is no"),
            ("decode_context = ", "decode_context = -", "must be at least 0"),
            ("decode_context = ", "decode_context = \"", "costs.toml: "),
            ("[host]\nstep_ns = ", "[host]\nstep_ns = -", "host.step_ns = -"),
            ("[mixed.terms_ns]", "[mixed.terms]", "terms_ns"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from} is not in {good}");
            let error = parse(&bad);
            assert!(error.contains(expected) && error.contains("costs.toml"), "{error}");
        }
    }
}
