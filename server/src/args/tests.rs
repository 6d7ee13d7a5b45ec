use std::net::IpAddr;

use folio_engine::sched::policies::Fcfs;
use folio_engine::sched::{Policy, PolicyContext, PolicyOptions};

use super::*;

fn read(args: &[&str]) -> Result<Cli, String> {
    let args = ["folio"].iter().chain(args).map(OsString::from);
    Cli::read(args, &Registry::builtin()).map_err(|error| error.to_string())
}

fn serve(args: &[&str]) -> ServeArgs {
    match read(args).unwrap().command {
        Command::Serve(serve) => *serve,
        other => panic!("not serve: {other:?}"),
    }
}

/// A `folio.toml` with `text` in it, removed when dropped.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let file = format!("folio-args-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn flags_keep_vllms_names() {
    let args = serve(&[
        "serve",
        "--model=/models/a",
        "--served-model-name=a",
        "--served-model-name=b",
        "--host=localhost",
        "--port=9000",
        "--num-gpu-blocks-override=100",
        "--max-num-seqs=8",
        "--no-enable-prefix-caching",
        "--scheduling-policy=priority",
        "--seed=-3",
    ]);
    assert_eq!(args.models.served_model_name, ["a", "b"]);
    assert_eq!(args.http.host, IpAddr::from([127, 0, 0, 1]));
    assert_eq!(args.http.port, 9000);
    assert_eq!(args.engine.num_blocks, Some(100));
    assert_eq!(args.engine.max_num_seqs, 8);
    assert!(args.engine.no_enable_prefix_caching);
    assert_eq!(args.engine.scheduling_policy, "priority");
    assert_eq!(args.engine.default_seed, Some(-3));
    assert_eq!(args.http.limits.max_body_size, Bytes(32 << 20));
}

#[test]
fn vllms_flags_of_a_benchmark_are_read() {
    let args = read(&[
        "bench",
        "serve",
        "--backend=openai-chat",
        "--base-url=http://127.0.0.1:9",
        "--dataset-name=prefix_repetition",
        "--goodput",
        "ttft:500",
        "tpot:50",
        "--percentile-metrics=ttft,e2el",
        "--metric-percentiles=50,99.9",
        "--metadata",
        "a=1",
        "b=2",
        "--request-rate=inf",
        "--extra-body={\"top_k\": 3}",
        "--verify",
        "--num-prompts=7",
    ]);
    let Command::Bench(bench) = args.unwrap().command else { panic!("not bench") };
    let BenchCommand::Serve(serve) = bench.command else { panic!("not serve") };
    assert_eq!(serve.figures.goodput, ["ttft:500", "tpot:50"]);
    assert_eq!(serve.figures.metric_percentiles, [50.0, 99.9]);
    assert_eq!(serve.figures.metadata, ["a=1", "b=2"]);
    assert_eq!(serve.figures.verify, Some(16));
    assert!(serve.traffic.request_rate.is_infinite());
    assert_eq!(serve.sampling.extra_body.unwrap()["top_k"], 3);
    assert_eq!((serve.dataset.num_prompts, serve.dataset.random_output_len), (7, 128));
}

#[test]
fn the_file_gives_defaults_and_flags_go_before_it() {
    let text = "port = 9001\nmax-num-seqs = 5\nserved-model-name = [\"x\", \"y\"]\n\
                no-enable-prefix-caching = true\nkv-cache-memory = \"1GiB\"\n";
    let file = ConfigFile::new("defaults", text);
    let args = serve(&["serve", "--config", file.path(), "--port", "9002"]);
    assert_eq!(args.http.port, 9002);
    assert_eq!(args.engine.max_num_seqs, 5);
    assert_eq!(args.models.served_model_name, ["x", "y"]);
    assert!(args.engine.no_enable_prefix_caching);
    assert_eq!(args.engine.kv_cache_memory, Some(Bytes(1 << 30)));
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    for (name, text, expected) in [
        ("unknown", "prot = 1\n", "prot"),
        ("table", "[serve]\nport = 1\n", "serve"),
        ("syntax", "port =\n", "line 1"),
        ("value", "port = \"many\"\n", "many"),
        ("config", "config = \"other.toml\"\n", "config"),
        ("nested", "served-model-name = [[\"x\"]]\n", "served-model-name"),
    ] {
        let file = ConfigFile::new(name, text);
        let error = read(&["serve", "--config", file.path()]).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let error = read(&["serve", "--config", "/no/such/file.toml"]).unwrap_err();
    assert!(error.contains("/no/such/file.toml"), "{error}");
}

#[test]
fn bad_flags_are_refused_with_the_limit() {
    for (args, expected) in [
        (vec!["serve", "--port=70000"], "65535"),
        (vec!["serve", "--host=example.com"], "IP address"),
        (vec!["serve", "--max-body-size=1TB"], "MiB"),
        (vec!["serve", "--log-format=xml"], "json"),
        (vec!["serve", "--otlp-traces-endpoint=localhost:4317"], "not a URL"),
        (vec!["serve", "--log-level=verbose"], "off, error, warn"),
        (vec!["serve", "--log-level=info,folio=loud"], "crate::access=off"),
        (vec!["serve", "--num-blocks=5", "--kv-cache-memory=1GiB"], "cannot be used"),
        (vec!["generate", "hi", "--temperature=nan"], "from 0 to 2"),
        (vec!["generate", "hi", "--temperature=inf"], "from 0 to 2"),
        (vec!["generate", "hi", "--temperature=-0.1"], "from 0 to 2"),
        (vec!["generate", "hi", "--top-p=NaN"], "above 0 and at most 1"),
        (vec!["generate", "hi", "--top-p=0"], "above 0 and at most 1"),
        (vec!["generate"], "PROMPT"),
        (vec!["bench"], "bench"),
        (vec!["bench", "serve", "--backend=tgi"], "openai-chat"),
        (vec!["bench", "serve", "--dataset-name=hf"], "prefix_repetition"),
        (vec!["bench", "serve", "--spawn", "--base-url=http://a"], "cannot be used"),
        (vec!["bench", "serve", "--", "--model=a"], "--spawn"),
        (vec!["bench", "serve", "--ramp-up-strategy=linear"], "--ramp-up-start-rps"),
        (vec!["bench", "serve", "--users=2", "--request-rate=1"], "cannot be used"),
        (vec!["bench", "serve", "--metric-percentiles=50,101"], "from 0 to 100"),
        (vec!["bench", "serve", "--think-time=-1"], "at least 0"),
        (vec!["bench", "serve", "--extra-body=[1]"], "JSON object"),
        (vec!["bench", "serve", "--slo=a", "--goodput", "ttft:1"], "cannot be used"),
    ] {
        let error = read(&args).unwrap_err();
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}

/// `folio config` with `args`.
fn config(args: &[&str]) -> String {
    let args: Vec<_> = ["config"].iter().chain(args).copied().collect();
    match read(&args).unwrap().command {
        Command::Config(config) => config.settings,
        other => panic!("not config: {other:?}"),
    }
}

#[test]
fn every_setting_is_in_the_listing_and_can_be_read_back() {
    let listing = config(&[]);
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    for flag in serve.get_arguments().filter_map(clap::Arg::get_long) {
        let entry = format!("\n# {flag} = ");
        assert!(flag == "config" || listing.contains(&entry), "{flag} is not in\n{listing}");
    }
    // Without the marks of its comments it is a file that changes nothing.
    let entries = listing.lines().filter_map(|line| line.strip_prefix("# "));
    let entries = entries.filter(|line| {
        line.split_once(" = ")
            .is_some_and(|(key, value)| !key.contains(' ') && !matches!(value, "\"\"" | "[]"))
    });
    let file = ConfigFile::new("listing", &entries.collect::<Vec<_>>().join("\n"));
    assert_eq!(config(&["--config", file.path()]), listing);
}

#[test]
fn what_is_set_is_listed_and_secrets_are_not() {
    let listing = config(&["--port=9000", "--api-key=sk-secret", "--allowed-origins=https://a.b"]);
    assert!(listing.contains("\nport = 9000\n"), "{listing}");
    assert!(listing.contains("\nallowed-origins = [\"https://a.b\"]\n"), "{listing}");
    assert!(listing.contains("\n# api-key is set\n") && !listing.contains("secret"), "{listing}");
}

#[test]
fn the_settings_for_kubernetes_are_settings() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/folio.toml");
    let listing = config(&["--config", path]);
    assert!(
        listing.contains("\nhost = \"0.0.0.0\"\n") && listing.contains("\ndrain-timeout = 45\n")
    );
}

#[test]
fn the_help_lists_the_policies_of_the_program() {
    let mut registry = Registry::builtin();
    let make = |_: &mut PolicyOptions<'_>, _: &PolicyContext| Ok(Box::new(Fcfs) as Box<dyn Policy>);
    registry.register("newest", "who came last goes first", make);
    let help = |word: &str| {
        let words = ["folio", "serve", word].map(OsString::from);
        Cli::read(words, &registry).unwrap_err().to_string()
    };
    let long = help("--help");
    assert!(long.contains("- newest: who came last goes first"), "{long}");
    assert!(long.contains("- fcfs: first come, first served"), "{long}");
    assert!(help("-h").contains("newest]"));
}
