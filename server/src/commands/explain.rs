//! `folio explain`.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use folio_engine::decisions::{Header, LogError, LogReader};
use folio_engine::types::{Nanos, RequestId};
use folio_sim::explain::{Explanation, Wanted, explain, summarize};

use crate::args::ExplainArgs;

/// Tells of one request, or of all together.
pub(crate) fn run(args: &ExplainArgs) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let Some(id) = &args.request else {
        let (summary, broken) = summarize(open(&args.log)?, args.top);
        if args.json {
            writeln!(output, "{}", serde_json::to_string_pretty(&summary)?)?;
        } else {
            write!(output, "{summary}")?;
        }
        return warn(&args.log, broken.as_ref());
    };
    let Explanation { stories, broken } = find(&args.log, id)?;
    if stories.is_empty() {
        warn(&args.log, broken.as_ref())?;
        bail!(
            "{}: no request {id:?}: give an X-Request-Id or a number of the log",
            args.log.display()
        );
    }
    write!(output, "{}", stories.join("\n"))?;
    warn(&args.log, broken.as_ref())
}

/// The stories of the requests with this id: the client's own goes before the engine's number.
fn find(path: &Path, id: &str) -> Result<Explanation> {
    let by_label = tell(path, &Wanted::Label(id.to_owned()))?;
    match id.parse() {
        Ok(number) if by_label.stories.is_empty() => tell(path, &Wanted::Number(RequestId(number))),
        _ => Ok(by_label),
    }
}

fn tell(path: &Path, wanted: &Wanted) -> Result<Explanation> {
    let log = open(path)?;
    let header = log.header().clone();
    Ok(explain(log, wanted, &|at| show_time(&header, at)))
}

/// A moment on the log's clock, and on the wall's where it is known.
fn show_time(header: &Header, at: Nanos) -> String {
    let seconds = format!("{:.3} s of the log", at.as_secs_f64());
    let wall = header.unix_origin.and_then(|origin| {
        let millis = ((origin + at.as_secs_f64()) * 1e3) as i64;
        jiff::Timestamp::from_millisecond(millis).ok()
    });
    match wall {
        Some(wall) => format!("{wall} ({seconds})"),
        None => seconds,
    }
}

/// The log at `path`.
pub(super) fn open(path: &Path) -> Result<LogReader<BufReader<File>>> {
    LogReader::open(path).with_context(|| path.display().to_string())
}

/// Says on the standard error stream what is wrong with the end of a log. A server may be writing
/// it still, so this is no failure.
pub(super) fn warn(path: &Path, broken: Option<&LogError>) -> Result<()> {
    if let Some(error) = broken {
        writeln!(std::io::stderr(), "warning: {}: {error}", path.display())?;
    }
    Ok(())
}
