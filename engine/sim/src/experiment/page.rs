//! The report of an experiment: verdicts first, then what got worse, then the figures.

use super::analysis::{Analysis, Finding, Setting};
use super::figures::{Close, bars, over_rates};
use super::results::{MEASURES, Measure, Role, RunResult};
use crate::plot::{Figure, PlotError, number};
use crate::report::{Block, Cell, Report, Section, Table, Tone};
use crate::statistics::{Comparison, Direction, Judge, Verdict};

/// Losses listed at the most.
const MAX_LOSSES: usize = 40;

impl Analysis {
    /// The report, under `title`.
    pub fn report(&self, title: &str, judge: &Judge) -> Result<Report, PlotError> {
        let mut sections = Vec::new();
        if self.policies.len() > 1 {
            sections.push(self.verdicts());
            sections.push(self.losses());
        }
        let mut variants: Vec<&str> =
            self.settings.iter().map(|setting| setting.variant.as_str()).collect();
        variants.dedup();
        for (index, variant) in variants.iter().enumerate() {
            let title = match *variant {
                "" => "Against the request rate".to_owned(),
                variant => format!("Against the request rate: {variant}"),
            };
            let mut figures = over_rates(self, variant);
            if variants.len() > 1 {
                for figure in &mut figures {
                    figure.name = format!("{}-{}", figure.name, index + 1);
                }
            }
            sections.push(section(title, "", figures)?);
        }
        sections.extend(self.close_sections()?);
        sections.push(self.overview());
        sections.retain(|section| !section.blocks.is_empty());
        Ok(Report { title: title.to_owned(), lead: self.lead(judge), sections })
    }

    fn close_sections(&self) -> Result<Vec<Section>, PlotError> {
        let Some(close) = Close::of(self) else { return Ok(Vec::new()) };
        let at = format!("At {}, first seed.", close.setting().name());
        let mut distributions = close.distributions();
        distributions.extend(close.by_scale());
        distributions.extend(close.by_size());
        let mut courses = close.courses();
        courses.extend(close.steps());
        courses.extend(bars(self, close.setting()));
        courses.extend(close.lives());
        Ok(vec![
            section("Distributions".to_owned(), &at, distributions)?,
            section("Over time".to_owned(), &at, courses)?,
            section("Tenants".to_owned(), &at, close.tenants())?,
        ])
    }

    fn lead(&self, judge: &Judge) -> Vec<String> {
        let num_simulated = self.results.iter().filter(|result| result.is_simulated).count();
        let kind = match num_simulated {
            0 => "runs",
            simulated if simulated == self.results.len() => "simulated runs",
            _ => "runs, some of them simulated",
        };
        let mut seeds: Vec<u64> = self.results.iter().map(|result| result.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let counts = format!(
            "{} {kind}: {} {}, {} {}, {} {}.",
            self.results.len(),
            self.policies.len(),
            plural(self.policies.len(), "policy", "policies"),
            self.settings.len(),
            plural(self.settings.len(), "setting", "settings"),
            seeds.len(),
            plural(seeds.len(), "seed", "seeds"),
        );
        let mut lead = vec![counts];
        if self.seeds_change_nothing() {
            lead.push(
                "The seeds change nothing here: runs of different seeds are equal, so the \
                 intervals say nothing of chance. Arrivals that are drawn differ by seed."
                    .to_owned(),
            );
        }
        if self.policies.len() < 2 {
            return lead;
        }
        let rule = format!(
            "Every policy is compared with {} on the same requests, seed by seed. Intervals hold \
             the mean difference with {:.0} % confidence (bootstrap, widened for few seeds). \
             “Same” means a difference below {} %; “cannot tell” means that more seeds or longer \
             runs are needed.",
            self.baseline,
            100.0 * judge.bootstrap.confidence,
            number(100.0 * judge.margin),
        );
        lead.insert(1, rule);
        lead
    }

    /// Whether every run is equal to that of another seed.
    fn seeds_change_nothing(&self) -> bool {
        let has_twin = |result: &RunResult| {
            self.results.iter().any(|other| {
                other.seed != result.seed
                    && other.policy == result.policy
                    && Setting::of(other) == Setting::of(result)
                    && other.measures == result.measures
            })
        };
        self.results.iter().all(has_twin)
    }

    fn verdicts(&self) -> Section {
        let headline = MEASURES.iter().filter(|measure| {
            let is_it = |finding: &Finding| finding.measure.key == measure.key;
            measure.role == Role::Headline && self.findings.iter().any(is_it)
        });
        let measures: Vec<&Measure> = headline.collect();
        let header = vec!["Setting".to_owned(), "Policy".to_owned()];
        let mut table = Table { header, ..Table::default() };
        table.header.extend(measures.iter().map(|measure| measure.label.to_owned()));
        for setting in &self.settings {
            let mut name = setting.name();
            for policy in &self.policies[1..] {
                let mut row = vec![Cell::words(std::mem::take(&mut name))];
                row.push(Cell::words(policy.clone()));
                for measure in &measures {
                    let found = self.findings.iter().find(|finding| {
                        finding.setting == *setting
                            && finding.policy == *policy
                            && finding.measure == **measure
                    });
                    row.push(found.map_or_else(Cell::default, verdict_cell));
                }
                table.rows.push(row);
            }
        }
        let mut section = Section::new(format!("Verdicts against {}", self.baseline));
        section.blocks.push(Block::Table(table));
        section
    }

    fn losses(&self) -> Section {
        let mut section = Section::new("What got worse");
        let worse = self.worse();
        let unclear = self
            .findings
            .iter()
            .filter(|finding| finding.comparison.verdict == Verdict::CannotTell);
        let (num_unclear, num_compared) = (unclear.count(), self.findings.len());
        section.blocks.push(Block::Text(match worse.len() {
            0 => "Nothing, as far as these runs can tell.".to_owned(),
            num => format!("{num} of {num_compared} comparisons, the greatest losses first."),
        }));
        if num_unclear > 0 {
            let text = format!("{num_unclear} of {num_compared} comparisons cannot be told.");
            section.blocks.push(Block::Text(text));
        }
        let header = ["Setting", "Policy", "Measure", "Baseline", "Policy's", "Difference"];
        let rows = worse.iter().take(MAX_LOSSES).map(|finding| loss_row(finding)).collect();
        let header = header.map(str::to_owned).to_vec();
        if !worse.is_empty() {
            section.blocks.push(Block::Table(Table { caption: String::new(), header, rows }));
        }
        if worse.len() > MAX_LOSSES {
            let text = format!("{} more in comparisons.csv.", worse.len() - MAX_LOSSES);
            section.blocks.push(Block::Text(text));
        }
        section
    }

    /// All measures, setting by setting.
    fn overview(&self) -> Section {
        let mut section = Section::new("Numbers");
        for setting in &self.settings {
            let mut table = Table {
                caption: format!("{}; means over the seeds", setting.name()),
                header: vec!["Measure".to_owned()],
                rows: Vec::new(),
            };
            table.header.extend(self.policies.iter().cloned());
            for measure in MEASURES {
                let values: Vec<Option<f64>> = self
                    .policies
                    .iter()
                    .map(|policy| self.mean(setting, policy, measure.key))
                    .collect();
                if values.iter().all(Option::is_none) {
                    continue;
                }
                let best = best_of(&values, measure.direction).map(number);
                let cell = |value: Option<f64>| {
                    let cell = Cell::number(value.map_or_else(|| "–".to_owned(), number));
                    let is_best = best.as_deref() == Some(cell.text.as_str());
                    if is_best { cell.toned(Tone::Good) } else { cell }
                };
                let mut row = vec![Cell::words(measure.label)];
                row.extend(values.iter().map(|value| cell(*value)));
                table.rows.push(row);
            }
            section.blocks.push(Block::Table(table));
        }
        section
    }
}

/// The best of the values, unless all look equal.
fn best_of(values: &[Option<f64>], direction: Direction) -> Option<f64> {
    let known = || values.iter().flatten().copied();
    let (low, high) = (known().reduce(f64::min)?, known().reduce(f64::max)?);
    (number(low) != number(high)).then_some(match direction {
        Direction::Lower => low,
        Direction::Higher => high,
    })
}

fn section(title: String, text: &str, figures: Vec<Figure>) -> Result<Section, PlotError> {
    let mut section = Section::new(title);
    if !text.is_empty() && !figures.is_empty() {
        section.blocks.push(Block::Text(text.to_owned()));
    }
    for figure in figures {
        section.blocks.push(Block::Figure(figure.draw()?));
    }
    Ok(section)
}

fn verdict_cell(finding: &Finding) -> Cell {
    let comparison = &finding.comparison;
    let tone = match comparison.verdict {
        Verdict::Better => Tone::Good,
        Verdict::Worse => Tone::Bad,
        Verdict::Same => Tone::Plain,
        Verdict::CannotTell => Tone::Muted,
    };
    let [difference, interval] = parts(comparison);
    let text = format!("{} {difference}", comparison.verdict.as_str());
    Cell::words(text).with_detail(interval).toned(tone)
}

/// The difference and its interval, as shares of the baseline where that is not zero.
pub(super) fn change(comparison: &Comparison) -> String {
    let [difference, interval] = parts(comparison);
    if interval.is_empty() { difference } else { format!("{difference} ({interval})") }
}

/// The difference; and its interval, empty where there is none.
fn parts(comparison: &Comparison) -> [String; 2] {
    let signed = |value: f64| {
        let (value, unit) = match comparison.relative(value) {
            Some(share) => ((1000.0 * share).round() / 10.0, " %"),
            None => (value, ""),
        };
        let sign = if value > 0.0 { "+" } else { "" };
        format!("{sign}{}{unit}", number(value))
    };
    let interval = comparison.interval;
    let interval = interval.map(|ends| format!("{} to {}", signed(ends.low), signed(ends.high)));
    [signed(comparison.difference()), interval.unwrap_or_default()]
}

fn loss_row(finding: &Finding) -> Vec<Cell> {
    let Finding { setting, policy, measure, comparison } = finding;
    let [difference, interval] = parts(comparison);
    vec![
        Cell::words(Setting::name(setting)),
        Cell::words(policy.clone()),
        Cell::words(measure.label),
        Cell::number(number(comparison.baseline)),
        Cell::number(number(comparison.candidate)),
        Cell::number(difference).with_detail(interval).toned(Tone::Bad),
    ]
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
