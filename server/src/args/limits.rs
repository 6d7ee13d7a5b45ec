//! Flags that bound what clients can hold: connections, bodies, time.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::Bytes;

/// Most seconds that a limit may last: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// What clients can hold, and for how long.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Longest request body, in bytes or with a unit such as MiB
    #[arg(long, env = "FOLIO_MAX_BODY_SIZE", value_name = "BYTES", default_value = "32MiB")]
    pub max_body_size: Bytes,

    /// Memory for all bodies that are being read; a body beyond it is refused with 503
    #[arg(long, env = "FOLIO_MAX_TOTAL_BODY_SIZE", value_name = "BYTES", default_value = "1GiB")]
    pub max_total_body_size: Bytes,

    /// Longest time without a byte of a body
    #[arg(long, env = "FOLIO_BODY_TIMEOUT", value_name = "SECONDS", default_value = "60")]
    pub body_timeout: Seconds,

    /// Bytes a second that a body must come with after --body-timeout; 0 for any
    #[arg(long, env = "FOLIO_MIN_BODY_RATE", value_name = "BYTES", default_value = "1KiB")]
    pub min_body_rate: Bytes,

    /// Longest head of a request, its address and header fields; at least 8KiB
    #[arg(long, env = "FOLIO_MAX_HEADER_SIZE", value_name = "BYTES", default_value = "64KiB")]
    pub max_header_size: Bytes,

    /// Longest time from the first byte of a request to the end of its head, and of a TLS handshake
    #[arg(long, env = "FOLIO_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "10")]
    pub header_timeout: Seconds,

    /// How long a connection is kept on which nothing is asked
    #[arg(long, env = "FOLIO_KEEP_ALIVE_TIMEOUT", value_name = "SECONDS", default_value = "75")]
    pub keep_alive_timeout: Seconds,

    /// How long a client may read nothing of its answer before the work is cancelled
    #[arg(long, env = "FOLIO_READ_TIMEOUT", value_name = "SECONDS", default_value = "120")]
    pub read_timeout: Seconds,

    /// Connections that are open at the same time; those beyond are refused with 503
    #[arg(long, env = "FOLIO_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// Requests at the same time on one HTTP/2 connection
    #[arg(long, env = "FOLIO_MAX_STREAMS_PER_CONNECTION", value_name = "NUMBER",
          default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams_per_connection: u32,
}

/// A length of time in seconds, which may have a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse().ok().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds));
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration.map(Self).ok_or_else(|| format!("must be seconds, from 0 to {MAX_SECONDS}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_finite_and_not_negative() {
        for (text, millis) in [("0", 0), ("0.25", 250), ("30", 30_000), ("86400", 86_400_000)] {
            assert_eq!(text.parse(), Ok(Seconds(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "-1", "nan", "inf", "86401", "10s"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
