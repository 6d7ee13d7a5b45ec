//! Flags that say who may use the server.

use std::path::PathBuf;

use clap::Args;

/// TLS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub(crate) struct TlsArgs {
    /// Serve HTTPS with the certificate in this PEM file, those of the authorities between behind
    /// it. Read again when it changes and on SIGHUP
    #[arg(long, env = "FOLIO_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, a PEM file
    #[arg(long, env = "FOLIO_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

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

    /// TOML file of keys with names, tenants, priorities and rates. Read again on SIGHUP
    #[arg(long, env = "FOLIO_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Serve other machines without asking for a key
    #[arg(long, env = "FOLIO_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,

    /// Let /metrics be read without a key
    #[arg(long, env = "FOLIO_ALLOW_UNAUTHENTICATED_METRICS")]
    pub allow_unauthenticated_metrics: bool,
}
