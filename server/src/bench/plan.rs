//! A benchmark from its first request to its report: warm-up, load, figures, check.

use std::sync::Arc;

use super::client::Client;
use super::error::BenchError;
use super::load::{Load, run};
use super::metrics::{Metric, Summary, Wanted};
use super::report::Report;
use super::request::Request;
use super::sample::{Class, Failure, Sample};
use super::timing::Timing;
use super::verify::{Check, verify};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who is asked.
    pub client: Arc<Client>,
    /// Requests before the load whose figures nobody looks at.
    pub warmups: Vec<Request>,
    /// The load.
    pub load: Load,
    /// What is to be found out.
    pub wanted: Wanted,
    /// What the terminal's first block shows.
    pub shown: Vec<Metric>,
    /// What the objective is called, if it is a preset.
    pub objective_name: Option<String>,
    /// Which answers are checked, if any.
    pub check: Option<Check>,
}

impl Plan {
    /// Does it. `progress` sees each request of the load as it ends.
    ///
    /// # Errors
    /// [`BenchError::Server`] if a request of the warm-up fails, as then all will.
    pub async fn execute(
        &self,
        progress: &mut dyn FnMut(&Sample),
    ) -> Result<(Report, Vec<Sample>), BenchError> {
        self.warm_up().await?;
        let requests = Arc::clone(&self.load.requests);
        let done = run(&self.client, self.load.clone(), progress).await;
        let verification = match self.check {
            Some(check) => Some(verify(&self.client, &requests, &done.samples, check).await),
            None => None,
        };
        let summary = |class| Summary::of(&done.samples, class, &self.wanted);
        let classes = [Class::Generation, Class::Embeddings];
        let report = Report {
            summaries: classes.into_iter().filter_map(summary).collect(),
            timing: Timing::of(&done.samples, &self.load.due, self.load.max_concurrency),
            shown: self.shown.clone(),
            objective: (self.wanted.objective, self.objective_name.clone()),
            stopped: done.stopped,
            verification,
        };
        Ok((report, done.samples))
    }

    /// Sends the warm-up, as many at a time as the load may have in flight.
    async fn warm_up(&self) -> Result<(), BenchError> {
        let at_once = self.load.max_concurrency.unwrap_or(self.warmups.len()).max(1);
        for (chunk, requests) in self.warmups.chunks(at_once).enumerate() {
            let mut tasks = tokio::task::JoinSet::new();
            for (index, request) in requests.iter().cloned().enumerate() {
                let client = Arc::clone(&self.client);
                let index = chunk * at_once + index;
                let body = client.body(index, &request, &[]);
                tasks.spawn(async move { client.send(index, &request, body).await.failure });
            }
            let failure = tasks.join_all().await.into_iter().flatten().next();
            if let Some(Failure { kind, text }) = failure {
                let message = format!("a request of the warm-up failed ({kind}): {text}");
                return Err(BenchError::Server(message));
            }
        }
        Ok(())
    }
}
