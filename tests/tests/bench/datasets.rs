//! Requests that are made up have the lengths and share the prefixes that they should.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use folio::bench::arrivals::Arrivals;
use folio::bench::datasets::{
    Custom, Dataset, Form, GeneratedSharedPrefix, Maker, PrefixRepetition, Random, RandomTexts,
    ShareGpt, Trace, Vocabulary,
};
use folio::bench::load::Due;
use folio::bench::{Prompt, Request};
use folio_sim::trace::Format;

fn maker(num_prompts: usize, form: Form) -> Maker {
    Maker { num_prompts, seed: 5, vocabulary: Vocabulary::new(None), form }
}

const RANDOM: Random =
    Random { input_len: 64, output_len: 16, range_ratio: 0.0, prefix_len: 0, turns: 1 };

fn made(maker: &Maker, dataset: &Dataset) -> Vec<Request> {
    maker.make(dataset).unwrap().0
}

fn ids(request: &Request) -> &[u32] {
    match &request.prompt {
        Prompt::Ids(ids) => ids,
        other => panic!("{other:?}"),
    }
}

#[test]
fn random_prompts_have_their_lengths_and_share_only_the_prefix() {
    let random = Random { prefix_len: 32, range_ratio: 0.5, ..RANDOM };
    let maker = maker(200, Form::Ids);
    let requests = made(&maker, &Dataset::Random(random));
    assert_eq!(requests.len(), 200);
    let prefix = ids(&requests[0])[..32].to_vec();
    let mut lens = HashSet::new();
    for request in &requests {
        let ids = ids(request);
        assert_eq!(ids[..32], prefix);
        assert_eq!(ids.len() as u32, request.input_len);
        assert!((32 + 32..=32 + 96).contains(&ids.len()), "{}", ids.len());
        assert!((8..=24).contains(&request.output_len), "{}", request.output_len);
        lens.insert(ids.len());
    }
    assert!(lens.len() > 20, "{lens:?}");
    let starts: HashSet<&[u32]> = requests.iter().map(|request| &ids(request)[32..40]).collect();
    assert_eq!(starts.len(), 200);
    assert_eq!(format!("{requests:?}"), format!("{:?}", made(&maker, &Dataset::Random(random))));
}

#[test]
fn without_a_ratio_lengths_are_exact() {
    let requests = made(&maker(50, Form::Ids), &Dataset::Random(RANDOM));
    assert!(requests.iter().all(|request| ids(request).len() == 64 && request.output_len == 16));
}

#[test]
fn a_warm_up_is_as_long_but_of_other_content() {
    for form in [Form::Ids, Form::Text] {
        let maker = maker(3, form);
        let requests = made(&maker, &Dataset::Random(RANDOM));
        let warmups = maker.warmups(5, &requests);
        assert_eq!(warmups.len(), 5);
        for warmup in &warmups {
            assert_eq!((warmup.input_len, warmup.output_len), (64, 16));
            let text = |request: &Request| format!("{:?}", request.prompt)[..60].to_owned();
            assert!(requests.iter().all(|request| text(request) != text(warmup)), "{warmup:?}");
        }
    }
}

#[test]
fn groups_share_their_prefix_and_nothing_else() {
    let gsp = GeneratedSharedPrefix {
        num_groups: 4,
        prompts_per_group: 5,
        system_prompt_len: 40,
        question_len: 8,
        output_len: 2,
    };
    let repetition =
        PrefixRepetition { prefix_len: 40, suffix_len: 8, num_prefixes: 4, output_len: 2 };
    for dataset in [Dataset::GeneratedSharedPrefix(gsp), Dataset::PrefixRepetition(repetition)] {
        let requests = made(&maker(20, Form::Ids), &dataset);
        let mut groups: HashMap<&[u32], usize> = HashMap::new();
        for request in &requests {
            assert_eq!(ids(request).len(), 48);
            *groups.entry(&ids(request)[..40]).or_default() += 1;
        }
        assert_eq!(groups.into_values().collect::<Vec<_>>(), [5; 4], "{dataset:?}");
        let whole: HashSet<&[u32]> = requests.iter().map(ids).collect();
        assert_eq!(whole.len(), 20);
    }
}

#[test]
fn a_share_of_the_requests_asks_for_vectors() {
    let maker = maker(100, Form::Ids);
    let texts = RandomTexts { input_len: 10, range_ratio: 0.0, batch_size: 2 };
    let requests = made(&maker, &Dataset::Random(RANDOM));
    let mixed = maker.mix(requests.clone(), 0.25, &texts).unwrap();
    assert_eq!(mixed.iter().filter(|request| request.is_embedding()).count(), 25);
    let error = maker.mix(requests, 1.5, &texts).unwrap_err().to_string();
    assert_eq!(error, "--embedding-share: 1.5: must be from 0 to 1");
}

/// A file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("folio-bench-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn lines_of_a_custom_file_become_requests() {
    let file = File::new(
        "custom.jsonl",
        "{\"prompt\": \"tell me a story\", \"output_tokens\": 9, \"timestamp\": 1.5}\n\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"hello there\"}]}\n",
    );
    let custom = |output_len| Dataset::Custom(file.0.clone(), Custom { output_len });
    let (requests, notes) = maker(3, Form::Text).make(&custom(Some(7))).unwrap();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[0].timestamp, Some(1.5));
    assert_eq!(requests[0].output_len, 7);
    assert!(matches!(&requests[1].prompt, Prompt::Messages(messages) if messages.len() == 1));
    assert!(notes[0].contains("prompts repeat"), "{notes:?}");
    // The second line does not say how long its answer is.
    let error = maker(2, Form::Text).make(&custom(None)).unwrap_err().to_string();
    assert!(error.contains("line 3") && error.contains("output_tokens"), "{error}");
    let ids = File::new("ids.jsonl", "{\"prompt\": [1, 2]}\n");
    let dataset = Dataset::Custom(ids.0.clone(), Custom { output_len: Some(1) });
    assert!(maker(1, Form::Ids).make(&dataset).is_ok());
    let error = maker(1, Form::Text).make(&dataset).unwrap_err().to_string();
    assert!(error.contains("token ids"), "{error}");
    let missing = Dataset::Custom("/no/such/file".into(), Custom { output_len: None });
    assert!(maker(1, Form::Ids).make(&missing).unwrap_err().to_string().contains("/no/such"));
}

#[test]
fn traces_keep_their_times_lengths_and_shared_prefixes() {
    let row = |time: u32, input: u32, ids: &str| {
        format!(
            "{{\"timestamp\": {time}, \"input_length\": {input}, \"output_length\": 5, \
             \"hash_ids\": [{ids}]}}\n"
        )
    };
    let text = row(1000, 1100, "1, 2, 3") + &row(3000, 1030, "1, 2, 4") + &row(3500, 600, "5, 6");
    let file = File::new("mooncake.jsonl", &text);
    let trace = Trace { format: Format::Mooncake, prefix_block: None };
    let (requests, notes) =
        maker(10, Form::Ids).make(&Dataset::Trace(file.0.clone(), trace)).unwrap();
    assert!(notes.iter().any(|note| note.contains("has 3 requests")), "{notes:?}");
    let lens: Vec<usize> = requests.iter().map(|request| ids(request).len()).collect();
    assert_eq!(lens, [1100, 1030, 600]);
    assert_eq!(ids(&requests[0])[..1024], ids(&requests[1])[..1024]);
    assert_ne!(ids(&requests[0])[1024..1030], ids(&requests[1])[1024..1030]);
    assert_ne!(ids(&requests[0])[..16], ids(&requests[2])[..16]);
    let due = Arrivals::Trace { speed: 2.0 }.schedule(&requests, 0).unwrap();
    assert_eq!(due, [Due::At(0.0), Due::At(1.0), Due::At(1.25)]);
    let wrong = File::new("wrong.jsonl", "{\"timestamp\": 1}\n");
    let error = maker(1, Form::Ids).make(&Dataset::Trace(wrong.0.clone(), trace)).unwrap_err();
    assert!(error.to_string().contains("wrong.jsonl"), "{error}");
}

#[test]
fn conversations_give_a_prompt_and_the_length_of_an_answer() {
    let turn = |text: &str| format!("{{\"from\": \"x\", \"value\": \"{text}\"}}");
    let good = format!("{},{}", turn(&"a".repeat(40)), turn(&"b".repeat(100)));
    let short = format!("{},{}", turn("a"), turn(&"b".repeat(100)));
    let long = format!("{},{}", turn(&"a".repeat(5000)), turn(&"b".repeat(100)));
    let single = turn(&"a".repeat(40));
    let all = [good, short, long, single];
    let text = all.map(|turns| format!("{{\"conversations\": [{turns}]}}")).join(",");
    let file = File::new("sharegpt.json", &format!("[{text}]"));
    let dataset = |output_len| Dataset::ShareGpt(file.0.clone(), ShareGpt { output_len });
    let requests = made(&maker(1, Form::Text), &dataset(None));
    // Four bytes a token where no tokenizer is given.
    assert_eq!((requests[0].input_len, requests[0].output_len), (10, 25));
    let (requests, notes) = maker(2, Form::Text).make(&dataset(Some(3))).unwrap();
    assert_eq!((requests.len(), requests[1].output_len), (2, 3));
    assert!(notes.iter().any(|note| note.contains("has 1 prompts")), "{notes:?}");
}

#[test]
fn lengths_that_cannot_be_are_refused_by_name() {
    let fails = |dataset: Dataset| maker(10, Form::Ids).make(&dataset).unwrap_err().to_string();
    let error = fails(Dataset::Random(Random { input_len: 0, ..RANDOM }));
    assert_eq!(error, "--random-input-len: 0: must be from 1 to 10000000");
    let error = fails(Dataset::Random(Random { range_ratio: 1.0, ..RANDOM }));
    assert!(error.contains("--random-range-ratio: 1: must be at least 0 and below 1"), "{error}");
    let repetition =
        PrefixRepetition { prefix_len: 4, suffix_len: 8, num_prefixes: 11, output_len: 2 };
    let error = fails(Dataset::PrefixRepetition(repetition));
    assert!(error.contains("11: must be from 1 to --num-prompts, 10"), "{error}");
}
