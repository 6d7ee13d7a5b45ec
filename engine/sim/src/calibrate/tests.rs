//! A simulated run, recorded, is compared with the model that made it, and with others.

use std::path::PathBuf;
use std::sync::Arc;

use folio_engine::core::{EngineCore, Turn};
use folio_engine::decisions::{Disguise, LogFile, LogLimits, LogReader};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, Clock as _, EventSender, ManualClock, ModelId, Nanos, Request, RequestId,
    SamplingParams, Slo, StopConditions, Task, TenantId,
};

use super::*;
use crate::SimExecutor;
use crate::cost::{FittedFile, GroupFit, Identity};
use crate::instance::decoder_config;
use crate::options::Host;

fn model(factor: f64) -> Arc<Fitted> {
    let prices = [
        ("step", 200_000.0),
        ("sequence", 20_000.0 * factor),
        ("token_to_256", 5000.0),
        ("token_to_1024", 5000.0),
        ("decode_context", 40.0),
    ];
    let terms_ns = prices.map(|(name, price)| (name.to_owned(), price)).into_iter().collect();
    let group = GroupFit { terms_ns, ..GroupFit::default() };
    let file = FittedFile {
        version: 1,
        identity: Identity::default(),
        host: HostFit { step_ns: 30_000.0, sequence_ns: 1000.0 },
        decode: group.clone(),
        mixed: group,
    };
    Arc::new(Fitted::new("test", &file))
}

/// 300 requests that arrive one every 12 ms, under the engine's own core, into a log.
fn record(name: &str) -> Recording {
    let path: PathBuf = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let config = decoder_config(2048, 500).validated().unwrap();
    let clock = ManualClock::default();
    let host = Host { per_step: Nanos(30_000), per_sequence: Nanos(1000), ..Host::default() };
    let executor = SimExecutor::new(model(1.0), clock.clone()).with_host(host);
    let mut core = EngineCore::new(
        config.clone(),
        Box::new(Fcfs),
        Box::new(executor),
        Box::new(clock.clone()),
    );
    core.record_decisions();
    let header = Header::new("fcfs", config.clone(), &["made-up".to_owned()]);
    let limits = LogLimits { max_bytes: None };
    let mut log = LogFile::create(&path, header, Disguise::reproducible(&config), limits).unwrap();
    let mut next = 0u64;
    while next < 300 || !core.is_idle() {
        let due = Nanos(next * 12_000_000);
        if core.is_idle() {
            clock.advance_to(due);
        }
        while next < 300 && Nanos(next * 12_000_000) <= clock.now() {
            core.admit(request(next));
            next += 1;
        }
        match core.step() {
            Turn::Failed(fault) => panic!("{fault:?}"),
            Turn::Stepped(_) | Turn::Idle => log.write(core.take_decisions()).unwrap(),
        }
    }
    log.flush().unwrap();
    let recording = Recording::read(LogReader::open(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    recording
}

fn request(number: u64) -> Request {
    let len = 20 + number * 37 % 400;
    let max_tokens = 5 + (number * 53 % 60) as u32;
    // A third begins alike.
    let word = |position: u64| {
        if number.is_multiple_of(3) { position } else { position * number + number }
    };
    Request {
        id: RequestId(number),
        model: ModelId(0),
        prompt: (0..len).map(|position| (word(position) % 50_000) as u32).collect(),
        task: Task::Generate(SamplingParams {
            stop: StopConditions { max_tokens, ..StopConditions::default() },
            ..SamplingParams::default()
        }),
        choices: vec![Choice::new(EventSender::discard())],
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    }
}

fn compared(recording: &Recording, model: &Arc<Fitted>) -> Calibration {
    calibrate(recording, model, None, &mut |_, spec| {
        assert_eq!(spec, "fcfs");
        Ok(Box::new(Fcfs).into())
    })
    .unwrap()
}

/// Arrivals are seen between steps in the recording and at their own times in the simulation, so
/// latencies differ by part of a step.
#[test]
fn the_model_that_made_a_run_is_not_off() {
    let recording = record("calibrate-same");
    assert_eq!((recording.requests.len(), recording.num_left_out), (300, 0));
    let calibration = compared(&recording, &model(1.0));
    for error in [&calibration.decode, &calibration.mixed] {
        assert!(error.num_steps > 50 && error.max < 1e-4, "{error:?}");
    }
    let (recorded, fitted) = calibration.host_ns;
    assert!((recorded / fitted - 1.0).abs() < 0.01, "{:?}", calibration.host_ns);
    for term in &calibration.terms {
        assert!((term.predicted - term.refitted).abs() < 0.01, "{term:?}");
    }
    for one in &calibration.metrics {
        assert!(one.error().abs() < 0.03, "{one:?}");
    }
    assert!(0.1 < calibration.load && calibration.load <= 1.0, "{}", calibration.load);
}

#[test]
fn a_term_that_is_off_is_named() {
    let recording = record("calibrate-off");
    let calibration = compared(&recording, &model(2.0));
    assert_eq!(calibration.terms[0].name, "sequence");
    assert!(calibration.terms[0].predicted > 1.3 * calibration.terms[0].refitted);
    assert!(calibration.decode.bias > 0.05, "{:?}", calibration.decode);
    let text = calibration.to_string();
    assert!(text.contains("furthest off: sequence, too dear"), "{text}");
    assert!(text.contains("mean TTFT") && text.contains("p99 E2EL"), "{text}");
}
