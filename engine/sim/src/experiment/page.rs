//! The report of an experiment: verdicts first, then what got worse, then the figures.

use super::analysis::{Analysis, Finding, Setting};
use super::figures::{Close, bars, over_rates};
use super::results::{MEASURES, Role};
use crate::plot::{Figure, PlotError, number};
use crate::report::{Block, Cell, Report, Section, Table, Tone};
use crate::statistics::{Comparison, Direction, Judge, Verdict};

/// Losses listed at the most.
const MAX_LOSSES: usize = 40;

impl Analysis {
    /// The report, under `title`.
    pub fn report(&self, title: &str, judge: &Judge) -> Result<Report, PlotError> {
        let mut sections = vec![self.overview()];
        if self.policies.len() > 1 {
            sections.insert(0, self.verdicts());
            sections.insert(1, self.losses());
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
                figures.iter_mut().for_each(|figure| figure.name += &format!("-{}", index + 1));
            }
            sections.push(section(title, "", figures)?);
        }
        sections.extend(self.close_sections()?);
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
        if self.policies.len() < 2 {
            return vec![counts];
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
        vec![counts, rule]
    }

    fn verdicts(&self) -> Section {
        let mut section = Section::new(format!("Verdicts against {}", self.baseline));
        for setting in &self.settings {
            let mut table = Table { caption: setting.name(), ..Table::default() };
            let headline = MEASURES.iter().filter(|measure| measure.role == Role::Headline);
            let is_measured = |key: &str| {
                self.findings.iter().any(|f| f.setting == *setting && f.measure.key == key)
            };
            let measures: Vec<_> = headline.filter(|measure| is_measured(measure.key)).collect();
            table.header.push("Policy".to_owned());
            table.header.extend(measures.iter().map(|measure| measure.label.to_owned()));
            for policy in &self.policies[1..] {
                let mut row = vec![Cell::words(policy.clone())];
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
            section.blocks.push(Block::Table(table));
        }
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
                let best = best_of(&values, measure.direction);
                let cell = |value: Option<f64>| {
                    let cell = Cell::number(value.map_or_else(|| "–".to_owned(), number));
                    let is_best = self.policies.len() > 1 && value.is_some() && value == best;
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

/// The best of the values, unless all are equal.
fn best_of(values: &[Option<f64>], direction: Direction) -> Option<f64> {
    let known = || values.iter().flatten().copied();
    let (low, high) = (known().reduce(f64::min)?, known().reduce(f64::max)?);
    (low < high).then_some(match direction {
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
    let text = format!("{} {}", comparison.verdict.as_str(), change(comparison));
    Cell::words(text).toned(tone)
}

/// The difference and its interval, as shares of the baseline where that is not zero.
pub(super) fn change(comparison: &Comparison) -> String {
    let signed = |value: f64| {
        let sign = if value > 0.0 { "+" } else { "" };
        match comparison.relative(value) {
            Some(share) => format!("{sign}{} %", number((1000.0 * share).round() / 10.0)),
            None => format!("{sign}{}", number(value)),
        }
    };
    let difference = signed(comparison.difference());
    match comparison.interval {
        Some(interval) => {
            format!("{difference} ({} to {})", signed(interval.low), signed(interval.high))
        }
        None => difference,
    }
}

fn loss_row(finding: &Finding) -> Vec<Cell> {
    let Finding { setting, policy, measure, comparison } = finding;
    vec![
        Cell::words(Setting::name(setting)),
        Cell::words(policy.clone()),
        Cell::words(measure.label),
        Cell::number(number(comparison.baseline)),
        Cell::number(number(comparison.candidate)),
        Cell::number(change(comparison)).toned(Tone::Bad),
    ]
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
