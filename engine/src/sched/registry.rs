//! Policies by name: what can be written after `--policy`, in `folio.toml`, over HTTP and in
//! results.
//!
//! A spec is `NAME key=value ...`, or a language and a text in it: `expr: ...`. What is wrong with
//! one is said with the key, the value, the limit and the column. Whoever builds a program of
//! their own adds policies with [`Registry::register`]; nothing here is global.

mod complaints;
mod error;
mod options;
mod predictors;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use complaints::{ComplaintKind, Complaints};
pub(super) use error::suggestion;
pub use error::{PolicyError, SpecText};
pub use options::PolicyOptions;
pub(crate) use options::parse_duration;
pub use predictors::predictor;

use super::{Decider, OutputLengths, Planner, Policy, expr, policies};
use crate::types::{CostModel, TenantId};

/// What a policy may be given when it is made.
#[derive(Clone, Debug, Default)]
pub struct PolicyContext {
    /// Foretells how long steps take, where something can.
    pub cost: Option<Arc<dyn CostModel>>,
    /// True lengths of answers, in a simulation.
    pub lengths: Option<Arc<dyn OutputLengths>>,
    /// Seed of everything that a policy draws by chance.
    pub seed: u64,
    /// Tokens in a block of the KV cache; 0 where there is none yet.
    pub block_size: u32,
    /// Shares of tenants that are not 1. A tenant of weight 2 may have twice the service.
    pub tenant_weights: HashMap<TenantId, f64>,
    /// Whether decisions may depend on how long a policy takes.
    pub tempo: Tempo,
    /// Who wrote the spec.
    pub origin: Origin,
    /// Where policies say that something went wrong and they went on without it.
    pub complaints: Complaints,
}

/// Whether decisions may depend on how long a policy takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tempo {
    /// They may: clients wait for tokens.
    #[default]
    Live,
    /// They may not: time is simulated, and every run must come out the same.
    Simulated,
}

/// Who wrote a spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Whoever started the program, who may start others too.
    #[default]
    Operator,
    /// Somebody over the network: no program is started for them.
    Network,
}

/// What comes of a spec.
type Made<T> = Result<Box<T>, PolicyError>;

/// Makes a policy of its parameters.
type MakeNamed = dyn Fn(&mut PolicyOptions<'_>, &PolicyContext) -> Made<dyn Policy> + Send + Sync;

/// Makes a planner of its parameters.
type MakePlanner =
    dyn Fn(&mut PolicyOptions<'_>, &PolicyContext) -> Made<dyn Planner> + Send + Sync;

/// Makes a policy of a text in its language.
type MakeFromText =
    dyn Fn(SpecText<'_>, &PolicyContext) -> Result<Box<dyn Policy>, PolicyError> + Send + Sync;

/// The policies that a program knows. Clones are cheap.
#[derive(Clone)]
pub struct Registry {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    help: String,
    maker: Maker,
    /// Whether it looks at the priority of requests.
    priorities: PriorityUse,
}

#[derive(Clone)]
enum Maker {
    /// `NAME key=value ...`
    Named(Arc<MakeNamed>),
    /// The same, for what plans whole steps.
    Joint(Arc<MakePlanner>),
    /// `NAME: text`
    Language(Arc<MakeFromText>),
}

/// Whether a policy looks at the priority of requests. A server refuses requests that set one
/// where it would change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorityUse {
    /// It does, or may.
    Read,
    /// It does not.
    Ignored,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Registry {
    /// Without any policy.
    #[must_use]
    pub fn empty() -> Self {
        Self { entries: Vec::new() }
    }

    /// With the policies that ship with the engine.
    #[must_use]
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        policies::register(&mut registry);
        registry.register_language("expr", expr::HELP, expr::make);
        registry
    }

    /// Adds the policy `name`, or takes it in the place of the one that had the name. `help` is
    /// one line that tells what it does and its parameters; `make` reads them from the options.
    pub fn register<F>(&mut self, name: &str, help: &str, make: F)
    where
        F: Fn(&mut PolicyOptions<'_>, &PolicyContext) -> Result<Box<dyn Policy>, PolicyError>
            + Send
            + Sync
            + 'static,
    {
        self.enter(name, help, Maker::Named(Arc::new(make)));
    }

    /// Adds the planner `name` in the same way.
    pub fn register_planner<F>(&mut self, name: &str, help: &str, make: F)
    where
        F: Fn(&mut PolicyOptions<'_>, &PolicyContext) -> Result<Box<dyn Planner>, PolicyError>
            + Send
            + Sync
            + 'static,
    {
        self.enter(name, help, Maker::Joint(Arc::new(make)));
    }

    /// Adds a language: the spec `NAME: text` is made into a policy by `make`, which is given the
    /// text.
    pub fn register_language<F>(&mut self, name: &str, help: &str, make: F)
    where
        F: Fn(SpecText<'_>, &PolicyContext) -> Result<Box<dyn Policy>, PolicyError>
            + Send
            + Sync
            + 'static,
    {
        self.enter(name, help, Maker::Language(Arc::new(make)));
    }

    fn enter(&mut self, name: &str, help: &str, maker: Maker) {
        let (name, help) = (name.to_owned(), help.to_owned());
        self.entries.retain(|entry| entry.name != name);
        self.entries.push(Entry { name, help, maker, priorities: PriorityUse::Read });
    }

    /// Notes that policies of this name never look at priorities.
    pub(super) fn ignores_priorities(&mut self, name: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name == name) {
            entry.priorities = PriorityUse::Ignored;
        }
    }

    /// The policy that `spec` describes.
    pub fn make(&self, spec: &str, context: &PolicyContext) -> Result<Decider, PolicyError> {
        let (entry, text) = self.find(spec)?;
        match &entry.maker {
            Maker::Language(make) => Ok(make(text, context)?.into()),
            Maker::Joint(make) => {
                let mut options = PolicyOptions::read(&entry.name, text)?;
                let planner = make(&mut options, context)?;
                options.check_all_used()?;
                Ok(planner.into())
            }
            Maker::Named(make) => {
                let mut options = PolicyOptions::read(&entry.name, text)?;
                let policy = make(&mut options, context)?;
                let policy = policies::with_common_options(policy, &mut options, context)?;
                options.check_all_used()?;
                Ok(policy.into())
            }
        }
    }

    /// The same for a policy that is asked and not followed, which cannot be a planner.
    pub fn make_shadow(
        &self,
        spec: &str,
        context: &PolicyContext,
    ) -> Result<Box<dyn Policy>, PolicyError> {
        match self.make(spec, context)? {
            Decider::Ranked(policy) => Ok(policy),
            Decider::Joint(planner) => {
                let message = format!(
                    "{} plans whole steps and ranks nothing: it cannot be a shadow policy",
                    planner.name()
                );
                Err(SpecText::of(spec).error_at(0, message))
            }
        }
    }

    /// Whether the policy that `spec` describes looks at priorities; [`PriorityUse::Read`] where
    /// that is not known.
    #[must_use]
    pub fn priority_use(&self, spec: &str) -> PriorityUse {
        match self.find(spec) {
            Ok((Entry { name, maker: Maker::Language(_), .. }, text))
                if name == "expr" && !expr::reads_priority(text) =>
            {
                PriorityUse::Ignored
            }
            Ok((entry, _)) => entry.priorities,
            Err(_) => PriorityUse::Read,
        }
    }

    /// The names, in the order of their registration. That of a language ends in a colon.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.entries.iter().map(Entry::label)
    }

    /// The names, each with a line on what it does.
    pub fn help(&self) -> impl Iterator<Item = (String, &str)> + '_ {
        self.entries.iter().map(|entry| (entry.label(), entry.help.as_str()))
    }

    /// Who makes what `spec` describes, and the text that is left to read.
    fn find<'a>(&self, spec: &'a str) -> Result<(&Entry, SpecText<'a>), PolicyError> {
        let whole = SpecText::of(spec);
        let start = spec.len() - spec.trim_start().len();
        let ends = |c: char| c.is_whitespace() || c == ':';
        let end = spec[start..].find(ends).map_or(spec.len(), |num_bytes| start + num_bytes);
        let name = &spec[start..end];
        let is_language = spec[end..].starts_with(':');
        let entry = self.entries.iter().find(|entry| {
            entry.name == name && matches!(entry.maker, Maker::Language(_)) == is_language
        });
        match entry {
            Some(entry) => Ok((entry, whole.after(end + usize::from(is_language)))),
            None => Err(whole.error_at(start, self.unknown(name))),
        }
    }

    fn unknown(&self, name: &str) -> String {
        let names: Vec<String> = self.names().collect();
        let what = if name.is_empty() {
            "a policy is missing".to_owned()
        } else {
            format!("there is no policy {name:?}{}", suggestion(name, &names))
        };
        format!("{what}; it must be one of {}", names.join(", "))
    }
}

impl Entry {
    fn label(&self) -> String {
        match self.maker {
            Maker::Named(_) | Maker::Joint(_) => self.name.clone(),
            Maker::Language(_) => format!("{}:", self.name),
        }
    }
}
