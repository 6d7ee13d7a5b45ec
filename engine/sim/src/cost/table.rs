//! A step's time looked up in a table of measured steps, and interpolated between them.
//!
//! One grid for steps that decode (sequences, mean context) and one for prompts (tokens, mean
//! context). A mixed step is a prompt of all its tokens, and what its decode rows read on top.
//! With a seed the noise of the measured steps is added, so that tails are not flattered.

use std::path::Path;

use folio_engine::types::{BatchShape, CostModel, Nanos};
use serde::{Deserialize, Serialize};

use super::{CostError, Identity, Sample, text};

/// The layout of the file.
const VERSION: u32 = 1;
/// Quantiles that a bucket's noise is kept in.
const NUM_QUANTILES: usize = 11;

/// A grid of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cells {
    /// Sequences that decode, or tokens of a prompt; rising.
    pub sizes: Vec<u32>,
    /// Mean context of a row; rising.
    pub contexts: Vec<u32>,
    /// Nanoseconds, a list for each size with a time for each context.
    pub times_ns: Vec<Vec<f64>>,
    /// For each size, quantiles of measured over interpolated time, from the least to the most;
    /// empty without noise.
    #[serde(default)]
    pub noise: Vec<Vec<f64>>,
}

/// What is in the file of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableFile {
    /// The layout of the file.
    pub version: u32,
    /// What was measured.
    pub identity: Identity,
    /// Steps in which every row is one token.
    pub decode: Cells,
    /// Steps of one prompt.
    pub prefill: Cells,
}

/// A cost model from such a file.
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    decode: Cells,
    prefill: Cells,
    seed: Option<u64>,
}

impl Cells {
    /// A grid from steps with one size and one mean context each. Every pair must be there.
    /// `size_of` tells the size of a step.
    pub fn of(samples: &[Sample], size_of: impl Fn(&BatchShape) -> u32) -> Result<Self, String> {
        let point = |sample: &Sample| (size_of(&sample.shape), mean_context(&sample.shape) as u32);
        let mut sizes: Vec<u32> = samples.iter().map(|sample| point(sample).0).collect();
        let mut contexts: Vec<u32> = samples.iter().map(|sample| point(sample).1).collect();
        for axis in [&mut sizes, &mut contexts] {
            axis.sort_unstable();
            axis.dedup();
        }
        let time = |size: u32, context: u32| {
            let found = samples.iter().find(|sample| point(sample) == (size, context));
            found.map(|sample| sample.device_ns).ok_or_else(|| {
                format!("no step of size {size} with a context of {context} was measured")
            })
        };
        let row = |&size: &u32| contexts.iter().map(|&context| time(size, context)).collect();
        let times_ns = sizes.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Self { sizes, contexts, times_ns, noise: Vec::new() })
    }

    /// Adds the noise of single steps: pairs of a shape and its measured time.
    pub fn add_noise(&mut self, steps: &[(BatchShape, f64)], size_of: impl Fn(&BatchShape) -> u32) {
        let mut ratios = vec![Vec::new(); self.sizes.len()];
        for (shape, measured) in steps {
            let size = f64::from(size_of(shape));
            let bucket = self.bucket(size);
            ratios[bucket].push(measured / self.at(size, mean_context(shape)));
        }
        self.noise = ratios.into_iter().map(quantiles).collect();
    }

    /// The time of a step of `size` with `context`, in nanoseconds: exact at the grid's points,
    /// linear between them and beyond its ends, never below the least.
    #[must_use]
    pub fn at(&self, size: f64, context: f64) -> f64 {
        let (row, row_share) = place(&self.sizes, size);
        let (column, column_share) = place(&self.contexts, context);
        let along = |row: usize| {
            let times = &self.times_ns[row];
            let next = (column + 1).min(times.len() - 1);
            times[column] + column_share * (times[next] - times[column])
        };
        let next = (row + 1).min(self.sizes.len() - 1);
        let (low, high) = (along(row), along(next));
        (low + row_share * (high - low)).max(self.times_ns[0][0])
    }

    /// The row of the grid at or below `size`.
    fn bucket(&self, size: f64) -> usize {
        let above = self.sizes.partition_point(|&knot| f64::from(knot) <= size);
        above.saturating_sub(1)
    }

    /// The factor of noise for a step of `size`; `draw` is from 0 to 1.
    fn noise_at(&self, size: f64, draw: f64) -> f64 {
        let Some(quantiles) = self.noise.get(self.bucket(size)).filter(|one| one.len() > 1) else {
            return 1.0;
        };
        let at = draw * (quantiles.len() - 1) as f64;
        let index = (at as usize).min(quantiles.len() - 2);
        quantiles[index] + (at - index as f64) * (quantiles[index + 1] - quantiles[index])
    }

    fn check(&self) -> Result<(), String> {
        let is_rising = |axis: &[u32]| axis.windows(2).all(|pair| pair[0] < pair[1]);
        for (name, axis) in [("sizes", &self.sizes), ("contexts", &self.contexts)] {
            if axis.is_empty() || !is_rising(axis) {
                return Err(format!("{name} = {axis:?}: must rise, and have at least one"));
            }
        }
        if self.times_ns.len() != self.sizes.len() {
            let (rows, sizes) = (self.times_ns.len(), self.sizes.len());
            return Err(format!("times_ns has {rows} lists for {sizes} sizes"));
        }
        for (size, times) in self.sizes.iter().zip(&self.times_ns) {
            if times.len() != self.contexts.len() {
                let (num_times, contexts) = (times.len(), self.contexts.len());
                return Err(format!(
                    "times_ns of size {size} has {num_times} times for {contexts} contexts"
                ));
            }
            if let Some(time) = times.iter().find(|time| !(time.is_finite() && **time > 0.0)) {
                return Err(format!("times_ns of size {size}: {time} must be above 0"));
            }
        }
        let is_factor = |factor: &f64| factor.is_finite() && *factor > 0.0;
        match self.noise.iter().flatten().find(|factor| !is_factor(factor)) {
            Some(factor) => Err(format!("noise: {factor} must be above 0")),
            None => Ok(()),
        }
    }
}

/// The knot at or below `value` that has one after it, and how far `value` is towards that: above
/// 1 beyond the last. 0 below the first.
fn place(knots: &[u32], value: f64) -> (usize, f64) {
    if knots.len() < 2 {
        return (0, 0.0);
    }
    let above = knots.partition_point(|&knot| f64::from(knot) <= value);
    let index = above.saturating_sub(1).min(knots.len() - 2);
    let (low, high) = (f64::from(knots[index]), f64::from(knots[index + 1]));
    (index, ((value - low) / (high - low)).max(0.0))
}

fn quantiles(mut values: Vec<f64>) -> Vec<f64> {
    if values.len() < 2 {
        return Vec::new();
    }
    values.sort_by(f64::total_cmp);
    let last = (NUM_QUANTILES - 1) as f64;
    let quantile =
        |index: usize| crate::statistics::percentile(&values, 100.0 * index as f64 / last);
    (0..NUM_QUANTILES).filter_map(quantile).collect()
}

/// Mean context of the rows that decode, or of the chunks where there are any.
fn mean_context(shape: &BatchShape) -> f64 {
    if shape.is_pure_decode() {
        return shape.decode_context as f64 / f64::from(shape.num_seqs.max(1));
    }
    shape.prefill_context as f64 / f64::from(shape.num_prefill().max(1))
}

impl TableFile {
    /// The file of these grids.
    #[must_use]
    pub fn new(identity: Identity, decode: Cells, prefill: Cells) -> Self {
        Self { version: VERSION, identity, decode, prefill }
    }

    /// The file as text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        text::to_toml(self)
    }

    /// Reads the text of the file at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CostError> {
        let failed = |message: String| CostError::File { path: path.to_owned(), message };
        let file: Self = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
        if file.version != VERSION {
            let version = file.version;
            return Err(failed(format!("version = {version}: only {VERSION} can be read")));
        }
        for (grid, cells) in [("decode", &file.decode), ("prefill", &file.prefill)] {
            cells.check().map_err(|message| failed(format!("{grid}: {message}")))?;
        }
        Ok(file)
    }
}

impl Table {
    /// The cost model of a file, called `name`; with noise where there is a seed.
    #[must_use]
    pub fn new(name: impl Into<String>, file: TableFile, seed: Option<u64>) -> Self {
        Self { name: name.into(), decode: file.decode, prefill: file.prefill, seed }
    }

    fn time_ns(&self, shape: &BatchShape) -> f64 {
        let num_tokens = f64::from(shape.num_tokens);
        let context = mean_context(shape);
        if shape.is_pure_decode() {
            return self.decode.at(num_tokens, context) * self.noise(&self.decode, shape);
        }
        let num_decode = f64::from(shape.num_decode);
        let reading = if shape.num_decode > 0 {
            let context = shape.decode_context as f64 / num_decode;
            self.decode.at(num_decode, context) - self.decode.at(num_decode, 0.0)
        } else {
            0.0
        };
        let prompts = self.prefill.at(num_tokens, context);
        (prompts + reading.max(0.0)) * self.noise(&self.prefill, shape)
    }

    fn noise(&self, cells: &Cells, shape: &BatchShape) -> f64 {
        let Some(seed) = self.seed else { return 1.0 };
        cells.noise_at(f64::from(shape.num_tokens), draw(seed, shape))
    }
}

impl CostModel for Table {
    fn name(&self) -> &str {
        &self.name
    }

    fn predict(&self, shape: &BatchShape) -> Nanos {
        if shape.num_seqs == 0 {
            return Nanos(0);
        }
        Nanos(self.time_ns(shape).round() as u64)
    }
}

/// A number from 0 to 1 that follows from the seed and the shape.
fn draw(seed: u64, shape: &BatchShape) -> f64 {
    let parts = [
        u64::from(shape.num_seqs),
        u64::from(shape.num_tokens),
        u64::from(shape.num_emitting),
        shape.decode_context,
        shape.prefill_work,
        shape.prefill_context,
    ];
    // SplitMix64's mixing, over all parts.
    let mix = |state: u64, part: u64| {
        let mut z = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let bits = parts.into_iter().fold(seed, mix);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use folio_engine::types::Emission;

    use super::*;

    fn cells() -> Cells {
        Cells {
            sizes: vec![1, 4, 16],
            contexts: vec![0, 100, 1000],
            times_ns: vec![
                vec![10.0, 20.0, 110.0],
                vec![16.0, 40.0, 250.0],
                vec![40.0, 100.0, 700.0],
            ],
            noise: Vec::new(),
        }
    }

    fn table(noise: Vec<Vec<f64>>, seed: Option<u64>) -> Table {
        let decode = Cells { noise, ..cells() };
        let prefill = Cells {
            sizes: vec![16, 64],
            contexts: vec![0, 512],
            times_ns: vec![vec![1000.0, 1500.0], vec![3000.0, 4000.0]],
            noise: Vec::new(),
        };
        Table::new("t", TableFile::new(Identity::default(), decode, prefill), seed)
    }

    fn decode(num_seqs: u32, context: u32) -> BatchShape {
        let mut shape = BatchShape::default();
        (0..num_seqs).for_each(|_| shape.add(context..context + 1, Emission::Result));
        shape
    }

    #[test]
    fn the_table_is_exact_at_its_points() {
        let cells = cells();
        for (size, times) in cells.sizes.iter().zip(&cells.times_ns) {
            for (context, time) in cells.contexts.iter().zip(times) {
                assert_eq!(
                    cells.at(f64::from(*size), f64::from(*context)).to_bits(),
                    time.to_bits()
                );
                assert_eq!(
                    table(Vec::new(), None).predict(&decode(*size, *context)).0,
                    *time as u64
                );
            }
        }
    }

    /// Between: a third of the way in size and half of it in context. Beyond: on with the last
    /// slope. Below: the first.
    #[test]
    fn between_and_beyond_its_points_it_is_linear() {
        let cells = cells();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        close(cells.at(2.0, 50.0), 15.0 + (28.0 - 15.0) / 3.0);
        close(cells.at(1.0, 1900.0), 200.0);
        close(cells.at(28.0, 0.0), 64.0);
        close(cells.at(0.0, 0.0), 10.0);
    }

    /// 64 tokens of which 4 decode at 100: as a prompt of 64 after nothing, and what reading takes.
    #[test]
    fn a_mixed_step_is_a_prompt_and_what_decoding_reads() {
        let mut shape = decode(4, 100);
        shape.add(0..60, Emission::Result);
        assert_eq!(table(Vec::new(), None).predict(&shape).0, 3000 + (40 - 16));
    }

    #[test]
    fn noise_stays_within_its_quantiles_and_is_the_same_for_the_same_seed() {
        let noise = vec![vec![0.9, 1.0, 1.3], vec![1.0, 1.0], Vec::new()];
        let (one, other) = (table(noise.clone(), Some(1)), table(noise, Some(2)));
        let mut num_different = 0;
        for context in 0..1000 {
            let exact = table(Vec::new(), None).predict(&decode(2, context)).0 as f64;
            let noisy = one.predict(&decode(2, context)).0 as f64;
            assert!((0.9 * exact - 1.0..1.3 * exact + 1.0).contains(&noisy), "{noisy} for {exact}");
            assert_eq!(one.predict(&decode(2, context)), one.predict(&decode(2, context)));
            num_different +=
                u32::from(one.predict(&decode(2, context)) != other.predict(&decode(2, context)));
        }
        assert!(num_different > 800, "{num_different}");
        let still = table(vec![Vec::new(); 3], Some(1));
        assert_eq!(still.predict(&decode(4, 100)).0, 40);
    }

    #[test]
    fn a_grid_is_made_of_measured_steps_and_its_holes_are_named() {
        let sample = |num_seqs, context, device_ns| Sample {
            shape: decode(num_seqs, context),
            device_ns,
            spread: 0.0,
            host_ns: 0.0,
        };
        let mut samples =
            vec![sample(8, 0, 2.0), sample(1, 0, 1.0), sample(1, 64, 3.0), sample(8, 64, 9.0)];
        let size = |shape: &BatchShape| shape.num_seqs;
        let mut cells = Cells::of(&samples, size).unwrap();
        assert_eq!((&cells.sizes[..], &cells.contexts[..]), (&[1, 8][..], &[0, 64][..]));
        assert_eq!(cells.times_ns, [vec![1.0, 3.0], vec![2.0, 9.0]]);
        cells.add_noise(&[(decode(1, 0), 1.2), (decode(1, 0), 0.8), (decode(1, 64), 3.0)], size);
        let noise = &cells.noise[0];
        assert!((noise[0] - 0.8).abs() < 1e-9 && (noise[10] - 1.2).abs() < 1e-9, "{noise:?}");
        samples.pop();
        let error = Cells::of(&samples, size).unwrap_err();
        assert!(error.contains("size 8 with a context of 64"), "{error}");
    }

    #[test]
    fn bad_files_are_refused_with_what_is_wrong() {
        let file = TableFile::new(Identity::default(), cells(), cells());
        let good = file.to_toml();
        assert_eq!(TableFile::parse(&good, Path::new("t.toml")).unwrap(), file);
        for (from, to, expected) in [
            ("version = 1", "version = 7", "only 1 can be read"),
            ("sizes = [1,4,16]", "sizes = [1,1,16]", "decode: sizes = [1, 1, 16]: must rise"),
            ("sizes = [1,4,16]", "sizes = [1,4]", "times_ns has 3 lists for 2 sizes"),
            ("[10.0,20.0,110.0]", "[10.0,20.0]", "size 1 has 2 times for 3 contexts"),
            ("[10.0,", "[-10.0,", "-10 must be above 0"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from} is not in {good}");
            let error = TableFile::parse(&bad, Path::new("t.toml")).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("t.toml"), "{error}");
        }
    }
}
