//! Wrong tokens are no throughput.

use folio::bench::client::{Backend, Settings, Vectors};
use folio::bench::load::run;
use folio::bench::verify::{Check, verify};
use folio::bench::{Prompt, Request};

use crate::fake::{Fault, Script, Server, every, load, requests};

const CHECK: Check = Check { num: 8, tolerance: 1e-4, seed: 3 };

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_otherwise_under_load_is_caught() {
    for mixes_up in [false, true] {
        let server = Server::start(Script { mixes_up, ..Script::default() });
        let client = server.client(Settings::new(Backend::Completions, "m"));
        let requests = requests(20, 4);
        let done = run(&client, load(requests.clone(), every(0.0, 20)), &mut |_| {}).await;
        let found = verify(&client, &requests, &done.samples, CHECK).await;
        assert_eq!(found.num_checked, 8);
        assert_eq!(found.is_good(), !mixes_up, "{}", found.line());
        if mixes_up {
            assert_eq!(found.num_different, 8);
            assert!(found.shown[0].contains("then under load"), "{:?}", found.shown);
            assert!(found.line().starts_with("NOT VERIFIED"), "{}", found.line());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_checked_is_not_verified() {
    let server = Server::start(Script {
        faults: (0..9).map(|number| (number, Fault::Status(503))).collect(),
        ..Script::default()
    });
    let client = server.client(Settings::new(Backend::Completions, "m"));
    let requests = requests(2, 4);
    let done = run(&client, load(requests.clone(), every(0.0, 2)), &mut |_| {}).await;
    let found = verify(&client, &requests, &done.samples, CHECK).await;
    assert!(!found.is_good());
    assert_eq!(found.num_checked, 0);
}

#[tokio::test(start_paused = true)]
async fn vectors_are_compared_within_the_tolerance() {
    let server = Server::start(Script::default());
    let settings = Settings { vectors: Vectors::Kept, ..Settings::new(Backend::Embeddings, "e") };
    let client = server.client(settings);
    let texts: Vec<String> = vec!["a".into(), "bcd".into()];
    let requests = vec![Request::new(Prompt::Texts(texts.into()), 2, 0)];
    let mut done = run(&client, load(requests.clone(), every(0.0, 1)), &mut |_| {}).await;
    assert_eq!(done.samples[0].vectors, [1.0, 1.0, 3.0, 1.0]);
    assert_eq!((done.samples[0].tokens.num_texts, done.samples[0].tokens.input), (2, 10));
    let found = verify(&client, &requests, &done.samples, CHECK).await;
    assert!(found.is_good(), "{}", found.line());
    done.samples[0].vectors[2] += 0.001;
    let found = verify(&client, &requests, &done.samples, CHECK).await;
    assert!(!found.is_good() && found.num_different == 1, "{}", found.line());
    done.samples[0].vectors[2] = f32::NAN;
    assert!(!verify(&client, &requests, &done.samples, CHECK).await.is_good());
}
