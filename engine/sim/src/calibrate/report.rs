//! A calibration in words and tables.

use std::fmt;

use super::Calibration;
use crate::cost::Error;

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; steps ran {:.0} % of the time", self.run, 100.0 * self.load)?;
        if self.num_left_out > 0 {
            writeln!(f, "{} sequences never got a token and are left out", self.num_left_out)?;
        }
        writeln!(f, "\nSteps: predicted against recorded time of the device")?;
        writeln!(
            f,
            "  {:<8} {:>9} {:>12} {:>8} {:>8} {:>8}",
            "", "steps", "mean error", "p95", "bias", "in all"
        )?;
        for (name, error) in [("decode", &self.decode), ("mixed", &self.mixed)] {
            let Error { num_steps, mean, p95, bias, total, .. } = *error;
            let [mean, p95, bias, total] = [mean, p95, bias, total].map(|share| 100.0 * share);
            write!(f, "  {name:<8} {num_steps:>9} {mean:>10.1} % {p95:>6.1} % ")?;
            writeln!(f, "{bias:>+6.1} % {total:>+6.1} %")?;
        }
        let (recorded, fitted) = self.host_ns;
        if recorded > 0.0 {
            let [recorded, fitted] = [recorded, fitted].map(|ns| ns * 1e-3);
            writeln!(f, "  host: {recorded:.1} us a step, the model has {fitted:.1} us")?;
        }
        self.fmt_terms(f)?;
        writeln!(f, "\nRequests: recorded and simulated")?;
        for one in &self.metrics {
            let error = 100.0 * one.error();
            let (name, unit) = (&one.name, one.unit);
            writeln!(
                f,
                "  {name:<18} {:>11.3} {:>11.3} {unit:<6} {error:>+7.1} %",
                one.recorded, one.simulated
            )?;
        }
        Ok(())
    }
}

impl Calibration {
    fn fmt_terms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTerms: share of all recorded time, by the model and fitted to this run")?;
        for term in &self.terms {
            let [predicted, refitted] = [term.predicted, term.refitted].map(|share| 100.0 * share);
            let difference = predicted - refitted;
            writeln!(
                f,
                "  {:<18} {predicted:>6.1} % {refitted:>6.1} % {difference:>+6.1} %",
                term.name
            )?;
        }
        if let Some(term) = self.terms.first() {
            let difference = 100.0 * (term.predicted - term.refitted);
            let (much, kind) = (difference.abs(), if difference > 0.0 { "dear" } else { "cheap" });
            writeln!(f, "  furthest off: {}, too {kind} by {much:.1} % of all time", term.name)?;
        }
        Ok(())
    }
}
