//! Flags of the server itself: its address, who may use it, and how much of it.

use std::net::IpAddr;

use clap::Args;

use super::Bytes;

/// Address, keys and limits of the server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct HttpArgs {
    /// Address to listen on: an IP address, or `localhost`. Without an API key only loopback
    /// addresses are allowed (but see --allow-unauthenticated)
    #[arg(long, env = "FOLIO_HOST", default_value = "127.0.0.1", value_parser = host)]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "FOLIO_PORT", default_value_t = 8000)]
    pub port: u16,

    /// Key that clients must send as `Authorization: Bearer KEY`; repeat it, or separate by
    /// commas, for several. Everything but /health needs one
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

    /// Origin whose web pages may use the server (CORS); repeatable [default: any origin,
    /// without credentials]
    #[arg(long, env = "FOLIO_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// Longest request body, in bytes or with a unit such as MiB
    #[arg(long, env = "FOLIO_MAX_BODY_SIZE", value_name = "BYTES", default_value = "32MiB")]
    pub max_body_size: Bytes,

    /// Serve the API alone, without the page at `/`
    #[arg(long, env = "FOLIO_NO_UI")]
    pub no_ui: bool,
}

/// An IP address, or the one name that needs no look-up.
fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => text.parse().map_err(|_| "must be an IP address or localhost".to_owned()),
    }
}
