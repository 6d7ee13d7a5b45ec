//! What is wrong with a policy's spec, and where.

/// Why a spec is not a policy: what is wrong, and at which column of the spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy {spec:?}: column {column}: {message}")]
pub struct PolicyError {
    spec: String,
    column: u32,
    message: String,
}

impl PolicyError {
    /// The whole spec.
    #[must_use]
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// Where it goes wrong: a character of the spec, from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        self.column
    }

    /// What is wrong there.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The spec with a caret below the column, for a terminal.
    #[must_use]
    pub fn pointed(&self) -> String {
        // Line breaks and tabs would move the caret away from what it points at.
        let spec: String =
            self.spec.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let indent = " ".repeat(self.column as usize - 1);
        format!("{}\n  {spec}\n  {indent}^", self.message)
    }
}

/// A part of a spec, which knows where it is.
#[derive(Clone, Copy, Debug)]
pub struct SpecText<'a> {
    spec: &'a str,
    start: usize,
    end: usize,
}

impl<'a> SpecText<'a> {
    /// A whole spec.
    #[must_use]
    pub fn of(spec: &'a str) -> Self {
        Self { spec, start: 0, end: spec.len() }
    }

    /// The text of this part.
    #[must_use]
    pub fn text(&self) -> &'a str {
        &self.spec[self.start..self.end]
    }

    /// The whole spec.
    #[must_use]
    pub fn spec(&self) -> &'a str {
        self.spec
    }

    /// The byte of the spec at which this part begins.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// What is left of this part after its first `num_bytes`.
    #[must_use]
    pub fn after(&self, num_bytes: usize) -> Self {
        Self { start: self.end.min(self.start + num_bytes), ..*self }
    }

    /// The bytes `start..end` of this part.
    #[must_use]
    pub fn part(&self, start: usize, end: usize) -> Self {
        let at = |num_bytes: usize| self.end.min(self.start + num_bytes);
        Self { start: at(start), end: at(end), spec: self.spec }
    }

    /// That `message` is wrong with what begins at byte `offset` of this part.
    #[must_use]
    pub fn error_at(&self, offset: usize, message: impl Into<String>) -> PolicyError {
        let before = self.spec.get(..self.start + offset).unwrap_or(self.spec);
        let column = before.chars().count() as u32 + 1;
        PolicyError { spec: self.spec.to_owned(), column, message: message.into() }
    }
}

/// ` (did you mean ...?)` if one of `names` is close to `name`.
pub(in crate::sched) fn suggestion<S: AsRef<str>>(name: &str, names: &[S]) -> String {
    let closest = names.iter().map(|other| {
        let other = other.as_ref();
        (strsim::damerau_levenshtein(name, other), other)
    });
    // A third of the letters may be wrong; two in a short word.
    let max_distance = (name.chars().count() / 3).max(2);
    match closest
        .min()
        .filter(|&(distance, other)| distance <= max_distance && distance < other.chars().count())
    {
        Some((_, other)) => format!(" (did you mean {other}?)"),
        None => String::new(),
    }
}
