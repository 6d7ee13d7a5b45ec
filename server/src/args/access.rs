//! Flags that say who may use the server.

use clap::Args;

/// Who may use the server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// Key that clients must send as `Authorization: Bearer KEY`; repeat it, or separate by
    /// commas, for several. Everything but /health and what is below it needs one
    #[arg(
        long,
        env = "FOLIO_API_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub api_key: Vec<String>,

    /// Serve other machines without asking for a key
    #[arg(long, env = "FOLIO_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,

    /// Let /metrics be read without a key
    #[arg(long, env = "FOLIO_ALLOW_UNAUTHENTICATED_METRICS")]
    pub allow_unauthenticated_metrics: bool,
}
