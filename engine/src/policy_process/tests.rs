//! Specs and answers; whole programs are in the tests of the workspace.

use super::protocol::Answer;
use super::*;

fn error(spec: &str, context: &PolicyContext) -> PolicyError {
    let mut registry = Registry::empty();
    register(&mut registry);
    registry.make(spec, context).err().unwrap_or_else(|| panic!("{spec:?} is a policy"))
}

#[test]
fn specs_are_refused_where_they_stand() {
    let context = PolicyContext::default();
    for (spec, column, message) in [
        ("process:", 9, "a command is missing"),
        ("process: deadline=2ms", 22, "a command is missing"),
        ("process: deadline=2 x", 19, "deadline is \"2\" and must be a time above 0"),
        ("process: cached=yes x", 17, "cached is \"yes\" and must be on or off"),
        ("process: python3 'a b", 10, "a quotation mark is open"),
        ("process: /no/such/program x", 10, "/no/such/program cannot be started"),
    ] {
        let error = error(spec, &context);
        assert!(error.message().starts_with(message), "{spec:?}: {error}");
        assert_eq!(error.column(), column, "{spec:?}: {error}");
    }
}

#[test]
fn nobody_starts_a_program_over_the_network() {
    let context = PolicyContext { origin: Origin::Network, ..PolicyContext::default() };
    let error = error("process: true", &context);
    assert!(error.message().starts_with("a program is started for whoever"), "{error}");
}

#[test]
fn answers_are_orders_or_ranks_of_known_sequences() {
    let read = |line: &str| Answer::read(line, 4, |id| id < 10);
    let ids = |ids: &[u64]| ids.iter().map(|&id| SequenceId(id)).collect::<Vec<_>>();
    assert_eq!(read(r#"{"step": 4}"#), Ok(Answer::Nothing));
    assert_eq!(read(r#"{"step": 4, "order": [3, 1]}"#), Ok(Answer::Order(ids(&[3, 1]))));
    let ranks = Answer::Ranks(vec![(SequenceId(2), -1.5), (SequenceId(9), 3.0)]);
    assert_eq!(read(r#"{"step": 4, "ranks": {"9": 3, "2": -1.5}}"#), Ok(ranks));
    for (line, message) in [
        ("", "EOF"),
        ("hello", "expected value at line 1 column 1, in \"hello\""),
        (r#"{"step": 3}"#, "it answers step 3"),
        (r#"{"step": 4, "oder": []}"#, "unknown field `oder`"),
        (r#"{"step": 4, "order": [10]}"#, "it names sequence 10, which was never there"),
        (r#"{"step": 4, "ranks": {"77": 1}}"#, "it names sequence 77"),
        (r#"{"step": 4, "ranks": {"1": NaN}}"#, "expected"),
        (r#"{"step": 4, "ranks": {"1": 1e999}}"#, "number out of range"),
        (r#"{"step": 4, "order": [], "ranks": {}}"#, "both order and ranks"),
    ] {
        let error = read(line).unwrap_err();
        assert!(error.contains(message), "{line}: {error}");
    }
}
