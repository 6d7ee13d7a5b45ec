//! Flags of the server itself: its address, who may use it, and how much of it.

use std::net::IpAddr;

use clap::Args;

use super::{AccessArgs, Bytes, LimitArgs, Seconds, TlsArgs};

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

    /// Origin whose web pages may use the server (CORS); repeatable [default: any origin,
    /// without credentials]
    #[arg(long, env = "FOLIO_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// Most finished responses of /v1/responses that are kept in memory for previous_response_id
    /// and GET; the one used least recently goes. 0 keeps none
    #[arg(
        long,
        env = "FOLIO_MAX_STORED_RESPONSES",
        value_name = "RESPONSES",
        default_value_t = 4096
    )]
    pub max_stored_responses: usize,

    /// Most bytes that all kept responses have together, with a unit such as MiB
    #[arg(
        long,
        env = "FOLIO_MAX_STORED_RESPONSE_BYTES",
        value_name = "BYTES",
        default_value = "256MiB"
    )]
    pub max_stored_response_bytes: Bytes,

    /// Serve the API alone, without the page at `/`
    #[arg(long, env = "FOLIO_NO_UI")]
    pub no_ui: bool,

    /// How long running requests may go on once the server is told to stop; then they are cut off
    #[arg(long, env = "FOLIO_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "25")]
    pub drain_timeout: Seconds,

    /// Who may use the server.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Certificate and key.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// What clients can hold.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// An IP address, or the one name that needs no look-up.
fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        _ => text.parse().map_err(|_| "must be an IP address or localhost".to_owned()),
    }
}
