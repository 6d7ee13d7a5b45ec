//! Readers of traces against small files of each format, and against malformed ones.

use std::io::{Cursor, Read, Write as _};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use folio_engine::types::Nanos;
use folio_sim::trace::{
    Arrivals, Format, Limited, Pace, Repeated, Rescaled, Trace, TraceOptions, offered_rate, open,
};
use folio_sim::{After, ReadTally, Record, TraceError, Workload};

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", name].iter().collect()
}

fn rows(workload: &mut dyn Workload) -> Vec<Record> {
    let mut rows = Vec::new();
    while let Some(record) = workload.next() {
        rows.push(record.expect("a record"));
    }
    rows
}

fn read(name: &str) -> (Vec<Record>, ReadTally, Format) {
    let mut trace = open(&path(name), &TraceOptions::default()).expect("a trace");
    let records = rows(&mut trace);
    (records, trace.tally(), trace.format())
}

/// Arrival in milliseconds, input, output.
fn brief(records: &[Record]) -> Vec<(f64, u32, u32)> {
    let of = |record: &Record| (record.arrival.0 as f64 * 1e-6, record.input, record.output);
    records.iter().map(of).collect()
}

fn tally(num_kept: u64, dropped: &[(&'static str, u64)]) -> ReadTally {
    let num_dropped: u64 = dropped.iter().map(|(_, num)| num).sum();
    ReadTally { num_read: num_kept + num_dropped, num_kept, dropped: dropped.to_vec() }
}

#[test]
fn azure_dates_are_times_and_rows_are_dropped_for_a_reason() {
    let (records, read, format) = read("azure.csv");
    assert_eq!(format, Format::Azure);
    let day = 86_400_000.0;
    assert_eq!(brief(&records), [(0.0, 374, 44), (4314.579, 396, 109), (day, 7, 1)]);
    let dropped = [("empty-prompt", 1), ("no-answer", 1), ("out-of-order", 1)];
    assert_eq!(read, tally(3, &dropped));
    assert!(records.iter().all(|record| record.prefix.is_empty()), "no invented prefixes");
}

#[test]
fn mooncake_counts_milliseconds_and_blocks_of_512_and_follows_sessions() {
    let (records, read, format) = read("mooncake.jsonl");
    assert_eq!((format, read), (Format::Mooncake, tally(4, &[])));
    let times: Vec<u64> = records.iter().map(|record| record.arrival.0 / 1000).collect();
    assert_eq!(times, [0, 27_500, 1_000_000, 0]);
    assert_eq!(records[0].prefix.as_ref(), [0, 1, 2]);
    assert!(records.iter().all(|record| record.prefix_block == 512));
    assert_eq!((records[2].session, records[2].after), (Some(0), None));
    let after = After { record: 2, think: Nanos(1_500_000_000) };
    assert_eq!((records[3].session, records[3].after), (Some(0), Some(after)));
}

/// The same keys mean seconds and 16 tokens where the user says so, and only there.
#[test]
fn a_timed_trace_is_read_as_vllm_reads_it() {
    let options = TraceOptions { format: Some(Format::TimedTrace), ..TraceOptions::default() };
    let mut trace = open(&path("timed_trace.jsonl"), &options).unwrap();
    let records = rows(&mut trace);
    assert_eq!(brief(&records), [(0.0, 40, 5), (500.0, 16, 5)]);
    assert_eq!(records[0].prefix_block, 16);
    let options = TraceOptions { prefix_block: Some(8), ..options };
    let mut trace = open(&path("timed_trace.jsonl"), &options).unwrap();
    assert_eq!(rows(&mut trace)[0].prefix_block, 8);
}

#[test]
fn bailian_counts_seconds_and_blocks_of_16() {
    let (records, _, format) = read("bailian.jsonl");
    assert_eq!(format, Format::Bailian);
    assert_eq!(brief(&records), [(0.0, 40, 521), (228.0, 52, 20)]);
    assert_eq!(records[1].prefix[..3], records[0].prefix[..]);
    assert_eq!(records[1].prefix_block, 16);
}

#[test]
fn agentic_sessions_are_closed_loops_with_ids_of_their_own() {
    let (records, read, format) = read("weka.jsonl");
    assert_eq!((format, read), (Format::Weka, tally(4, &[("empty-prompt", 1)])));
    let after = After { record: 0, think: Nanos(7_250_000_000) };
    let afters: Vec<Option<After>> = records.iter().map(|record| record.after).collect();
    assert_eq!(afters, [None, Some(after), None, None]);
    let sessions: Vec<Option<u64>> = records.iter().map(|record| record.session).collect();
    assert_eq!(sessions, [Some(0), Some(0), Some(1), Some(2)]);
    assert_eq!(records[1].prefix[..2], records[0].prefix[..], "one session, one prefix");
    assert_ne!(records[2].prefix[0], records[0].prefix[0], "ids are local to a session");
    assert_eq!(records[3].prefix.as_ref(), [1], "unless the trace says otherwise");
    let blocks: Vec<u32> = records.iter().map(|record| record.prefix_block).collect();
    assert_eq!(blocks, [64, 64, 64, 32]);
}

#[test]
fn tables_are_read_by_the_names_of_their_columns() {
    let (records, _, format) = read("servegen.csv");
    assert_eq!(format, Format::ServeGen);
    assert_eq!(brief(&records), [(0.0, 73, 492), (30.0, 1244, 1)]);
    assert_eq!((records[0].tenant, records[1].tenant), (4, 14));

    let (six, read_six, format) = read("burstgpt6.csv");
    assert_eq!(format, Format::BurstGpt);
    assert_eq!(read_six, tally(2, &[("no-answer", 1), ("no-tokens", 1)]));
    let (eight, read_eight, _) = read("burstgpt8.csv");
    assert_eq!(read_eight, tally(2, &[]));
    assert_eq!(six, eight, "two columns more, in front");
    assert_eq!(brief(&six), [(0.0, 472, 18), (40_000.0, 1087, 230)]);

    let (records, _, format) = read("lengths.csv");
    assert_eq!((format, format.has_times()), (Format::Lengths, false));
    assert_eq!(brief(&records), [(0.0, 3772, 54), (0.0, 2015, 156)]);
}

/// 36 and 61 bytes are 9 and 16 tokens at four bytes each.
#[test]
fn conversations_are_measured_and_left_out_as_vllm_does() {
    let (records, read, format) = read("sharegpt.json");
    assert_eq!((format, read), (Format::ShareGpt, tally(1, &[("no-answer", 1), ("too-short", 1)])));
    assert_eq!(brief(&records), [(0.0, 9, 16)]);
}

#[test]
fn a_gzipped_trace_is_the_same_trace() {
    let plain = std::fs::read(path("azure.csv")).unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&plain).unwrap();
    let packed = packed.finish().unwrap();
    let mut trace =
        Trace::read("azure.csv.gz", Box::new(Cursor::new(packed)), &TraceOptions::default())
            .unwrap();
    assert_eq!(rows(&mut trace), read("azure.csv").0);
}

fn first_error(text: &str, options: TraceOptions) -> String {
    let input: Box<dyn Read> = Box::new(Cursor::new(text.to_owned().into_bytes()));
    let mut trace = match Trace::read("t", input, &options) {
        Ok(trace) => trace,
        Err(error) => return error.to_string(),
    };
    loop {
        match trace.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.to_string(),
            None => return "no error".to_owned(),
        }
    }
}

/// File, row, column, value, and what it must be.
#[test]
fn a_malformed_row_is_named() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n";
    let mooncake = "{\"timestamp\": 1, \"input_length\": 600, \"output_length\": 2}\n";
    let cases = [
        (format!("{azure}yesterday,1,1\n"), "t, row 3, TIMESTAMP: \"yesterday\" must be a date"),
        (
            format!("{azure}2023-11-16 18:15:46,-4,1\n"),
            "t, row 3, ContextTokens: \"-4\" must be a whole number of tokens, at least 0",
        ),
        (
            format!("{azure}2023-11-16 18:15:46,1\n"),
            "t, row 3, GeneratedTokens: \"\" the row ends before it",
        ),
        (
            "arrival_s,tenant,input_tokens,output_tokens\nNaN,1,1,1\n".to_owned(),
            "t, row 2, arrival_s: \"NaN\" must be a number of seconds, at least 0",
        ),
        (
            format!("{mooncake}{{\"timestamp\": 1, \"input_length\": \"x\"}}\n"),
            "t, row 2, input_length: \"\\\"x\\\"\" must be a whole number of tokens",
        ),
        (
            format!("{mooncake}{{\"timestamp\": 1, \"input_length\": 4}}\n"),
            "t, row 2, output_length: \"\" is missing",
        ),
        (
            format!(
                "{mooncake}{{\"timestamp\": 1, \"input_length\": 600, \"output_length\": 2, \
                 \"hash_ids\": [1, 2, 3]}}\n"
            ),
            "t, row 2, hash_ids: \"3 ids\" are too many: 600 tokens are 2 blocks of 512 tokens",
        ),
        (format!("{mooncake}[1, 2]\n"), "t, row 2, row: \"[1, 2]\" must be a JSON object"),
        (format!("{mooncake}{{\"times"), "t, row 2, row: \"{\\\"times\" is not JSON"),
        ("a,b,c\n1,2,3\n".to_owned(), "t: no known format of a trace begins like this: a,b,c."),
        (String::new(), "t: no known format of a trace begins like this: it is empty."),
        ("[{\"conversations\": 3}]".to_owned(), "t, row 1, conversation: "),
        ("[{\"conv".to_owned(), "t: conversation 1 is not JSON"),
    ];
    for (text, expected) in cases {
        let message = first_error(&text, TraceOptions::default());
        assert!(message.starts_with(expected), "{message:?} instead of {expected:?}");
    }
    let options = TraceOptions { format: Some(Format::BurstGpt), ..TraceOptions::default() };
    let message = first_error(azure, options);
    assert!(message.contains("has a column \"Timestamp\""), "{message}");
}

#[test]
fn as_many_malformed_rows_as_allowed_are_dropped_and_counted() {
    let text = "arrival_s,tenant,input_tokens,output_tokens\n1,1,1,1\nx,1,1,1\n2,1\n3,1,1,1\n";
    let input = || Box::new(Cursor::new(text.as_bytes()));
    let options = TraceOptions { max_bad_rows: 2, ..TraceOptions::default() };
    let mut trace = Trace::read("t", input(), &options).unwrap();
    assert_eq!(brief(&rows(&mut trace)), [(0.0, 1, 1), (2000.0, 1, 1)]);
    assert_eq!(trace.tally(), tally(2, &[("malformed", 2)]));
    let first = trace.first_bad_row().map(TraceError::to_string).unwrap_or_default();
    assert!(first.starts_with("t, row 3, arrival_s"), "{first}");
    let options = TraceOptions { max_bad_rows: 1, ..TraceOptions::default() };
    assert!(first_error(text, options).starts_with("t, row 4, "));
}

fn spaced(num: u64, gap_ms: u64) -> Vec<Record> {
    let at = |index: u64| Record {
        arrival: Nanos(index * gap_ms * 1_000_000),
        input: 10 + index as u32,
        output: 5,
        ..Record::default()
    };
    (0..num).map(at).collect()
}

#[test]
fn a_trace_is_played_faster_and_its_rate_is_known() {
    let mut whole = spaced(11, 100).into_iter();
    assert_eq!(offered_rate(&mut whole).unwrap(), Some(10.0));
    let mut fast = Rescaled::new(spaced(11, 100).into_iter(), 4.0);
    let records = rows(&mut fast);
    assert_eq!(records[10].arrival, Nanos(250_000_000));
    let mut few = Limited::new(spaced(11, 100).into_iter(), 3);
    assert_eq!(rows(&mut few).len(), 3);
}

/// 100,000 drawn gaps: their mean is within four standard errors of 1/rate, their coefficient of
/// variation is one over the root of the burstiness.
#[test]
fn drawn_arrivals_have_the_rate_and_the_burstiness_asked_for() {
    for burstiness in [0.25, 1.0, 4.0] {
        let pace = Pace { rate: 50.0, burstiness };
        let mut drawn = Arrivals::new(spaced(100_001, 0).into_iter(), pace, 7);
        let records = rows(&mut drawn);
        let gaps: Vec<f64> = records
            .windows(2)
            .map(|pair| pair[1].arrival.since(pair[0].arrival).as_secs_f64())
            .collect();
        let num = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / num;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / num).sqrt();
        let expected = 1.0 / 50.0;
        let standard_error = expected / burstiness.sqrt() / num.sqrt();
        assert!((mean - expected).abs() < 4.0 * standard_error, "{burstiness}: mean {mean}");
        let variation = deviation / mean;
        assert!((variation * burstiness.sqrt() - 1.0).abs() < 0.05, "{burstiness}: {variation}");
    }
    let pace = Pace { rate: f64::INFINITY, burstiness: 1.0 };
    let mut at_once = Arrivals::new(spaced(3, 100).into_iter(), pace, 7);
    assert!(rows(&mut at_once).iter().all(|record| record.arrival == Nanos(0)));
}

/// Ten requests 100 ms apart, three times: lengths are those of the trace each time, arrivals go
/// on at its pace, and the order of the lengths changes.
#[test]
fn a_trace_repeats_with_the_same_lengths_in_another_order() {
    let trace = spaced(10, 100);
    let mut repeated =
        Limited::new(Repeated::new(trace.clone().into(), 3, ReadTally::default()), 30);
    let records = rows(&mut repeated);
    let arrivals: Vec<u64> = records.iter().map(|record| record.arrival.0 / 100_000_000).collect();
    assert_eq!(arrivals, (0..30).collect::<Vec<u64>>());
    let inputs: Vec<Vec<u32>> =
        records.chunks(10).map(|round| round.iter().map(|r| r.input).collect()).collect();
    assert_eq!(inputs[0], (10..20).collect::<Vec<u32>>());
    assert!(inputs[0] != inputs[1] && inputs[1] != inputs[2]);
    for mut round in inputs {
        round.sort_unstable();
        assert_eq!(round, (10..20).collect::<Vec<u32>>());
    }
}

/// Sessions and prefixes keep their order, follow their own predecessors, and share nothing with
/// the round before.
#[test]
fn sessions_repeat_as_others() {
    let (trace, ..) = read("weka.jsonl");
    let mut repeated =
        Limited::new(Repeated::new(trace.clone().into(), 3, ReadTally::default()), 8);
    let records = rows(&mut repeated);
    assert_eq!(records[5].after.map(|after| after.record), Some(4));
    assert_ne!(records[4].session, records[0].session);
    assert_eq!(records[5].prefix[..2], records[4].prefix[..]);
    assert!(records[4].prefix.iter().all(|id| !records[0].prefix.contains(id)));
    assert_eq!(brief(&records[4..]).iter().map(|r| r.1).collect::<Vec<_>>(), [130, 200, 64, 64]);
}
