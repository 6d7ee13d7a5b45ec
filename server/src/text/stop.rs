//! Finds stop strings in a text that arrives in portions.
//!
//! Invariants: of all matches in the whole text the one that starts first wins, and of those
//! that start together the one that ends first, whatever the order of the list and however the
//! text was cut. Matched text never gets out; held back is only what may still become a match.

/// Whether what ends a text is part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopText {
    /// It is.
    Kept,
    /// It is not: the default.
    #[default]
    Dropped,
}

/// Looks for up to a handful of strings in one stream of text.
#[derive(Debug)]
pub struct StopMatcher {
    /// With their index in the caller's list, shortest first.
    stops: Vec<(usize, String)>,
    /// The end of the text so far from the first place where a match may begin.
    held: String,
    /// Bytes of `held` in which no match may end.
    num_exempt: usize,
    is_matched: bool,
    stop_text: StopText,
}

/// What a portion of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that no match can take any more: the caller may send it. Ends with the match where that
    /// is kept.
    pub text: String,
    /// Index of the stop string that was found. `text` is what comes before it; what comes
    /// after it is gone, and so is everything pushed later.
    pub matched: Option<usize>,
}

impl StopMatcher {
    /// Looks for `stops`, of which none may be empty (front ends refuse those). Without any,
    /// text passes straight through.
    pub fn new(stops: &[String]) -> Self {
        assert!(stops.iter().all(|s| !s.is_empty()), "an empty stop string in {stops:?}");
        let mut stops: Vec<_> = stops.iter().cloned().enumerate().collect();
        stops.sort_by_key(|(_, stop)| stop.len());
        let stop_text = StopText::Dropped;
        Self { stops, held: String::new(), num_exempt: 0, is_matched: false, stop_text }
    }

    /// The same, whose last text ends with the stop string if that is to be kept.
    #[must_use]
    pub fn with_stop_text(self, stop_text: StopText) -> Self {
        Self { stop_text, ..self }
    }

    /// Takes the next portion of a text that is not to end yet: a match may begin in it, but
    /// none counts that ends in it.
    pub fn push_exempt(&mut self, text: &str) -> StopOutput {
        self.num_exempt = self.held.len() + text.len();
        self.push(text)
    }

    /// Takes the next portion of the text.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.is_matched {
            return StopOutput::default();
        }
        self.held.push_str(text);
        let is_open = |rest: &str| self.stops.iter().any(|(_, stop)| stop.starts_with(rest));
        for (start, _) in self.held.char_indices() {
            let rest = &self.held[start..];
            if let Some(index) = self.match_at(start) {
                return self.end(start, index);
            }
            if is_open(rest) {
                self.num_exempt = self.num_exempt.saturating_sub(start);
                return StopOutput { text: self.held.drain(..start).collect(), matched: None };
            }
        }
        self.num_exempt = 0;
        StopOutput { text: std::mem::take(&mut self.held), matched: None }
    }

    /// Ends the text and gives back what was held. It may still hold a match: one that an
    /// earlier, longer candidate stood in the way of until now.
    pub fn finish(&mut self) -> StopOutput {
        for (start, _) in self.held.char_indices() {
            if let Some(index) = self.match_at(start) {
                return self.end(start, index);
            }
        }
        StopOutput { text: std::mem::take(&mut self.held), matched: None }
    }

    /// The shortest stop string that stands at `start` and may end where it does.
    fn match_at(&self, start: usize) -> Option<usize> {
        let rest = &self.held[start..];
        let is_here = |(_, stop): &&(usize, String)| {
            start + stop.len() > self.num_exempt && rest.starts_with(stop.as_str())
        };
        self.stops.iter().find(is_here).map(|(index, _)| *index)
    }

    fn end(&mut self, start: usize, index: usize) -> StopOutput {
        let mut text = std::mem::take(&mut self.held);
        let stop = self.stops.iter().find(|(place, _)| *place == index);
        text.truncate(match (self.stop_text, stop) {
            (StopText::Kept, Some((_, stop))) => start + stop.len(),
            _ => start,
        });
        self.is_matched = true;
        StopOutput { text, matched: Some(index) }
    }
}
