//! The bar that moves while weights load. Silent where nobody watches.

use folio_engine::exec::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on the terminal; nothing if the standard error is none.
pub struct LoadProgress(ProgressBar);

impl LoadProgress {
    /// A bar that appears with the first progress.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
        Self(match style {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        })
    }

    /// Moves the bar.
    pub fn show(&self, progress: Progress<'_>) {
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.loaded_bytes);
        self.0.set_message(format!("Loading {}", progress.model));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
