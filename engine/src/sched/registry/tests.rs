//! Specs that are policies, and what is said of those that are not.

use super::*;
use crate::sched::policies::Fcfs;

fn error(spec: &str) -> PolicyError {
    let mut registry = Registry::builtin();
    registry.register("sized", "for tests", |options, _| {
        options.number("ageing", 0.0..=1000.0, 1.0)?;
        options.count("window", 1..=64, 8)?;
        options.duration("tpot")?;
        options.choice("order", &[("up", 1), ("down", 2)], 1)?;
        Ok(Box::new(Fcfs))
    });
    match registry.make(spec, &PolicyContext::default()) {
        Ok(policy) => panic!("{spec:?} made {}", policy.name()),
        Err(error) => error,
    }
}

#[test]
fn names_and_parameters_are_refused_where_they_stand() {
    for (spec, column, message) in [
        ("", 1, "a policy is missing; it must be one of fcfs, priority, "),
        ("  fcsf", 3, "there is no policy \"fcsf\" (did you mean fcfs?); it must be one of"),
        ("fcfs: 1", 1, "there is no policy \"fcfs\""),
        ("sized  ageing", 8, "\"ageing\" must read key=value"),
        ("sized ageing=x", 14, "ageing is \"x\" and must be a number from 0 to 1000"),
        ("sized ageing=-1", 14, "ageing is \"-1\" and must be a number from 0 to 1000"),
        ("sized ageing=NaN", 14, "ageing is \"NaN\" and must be a number from 0 to 1000"),
        ("sized window=0", 14, "window is \"0\" and must be a whole number from 1 to 64"),
        ("sized tpot=30", 12, "tpot is \"30\" and must be a time above 0 and at most 1h"),
        ("sized order=left", 13, "order is \"left\" and must be one of up, down"),
        ("sized order=up order=up", 16, "order is given twice"),
        ("sized é=1 order=x", 17, "order is \"x\" and must be one of up, down"),
        ("sized agieng=2", 7, "agieng is not a parameter of sized (did you mean ageing?)"),
    ] {
        let error = error(spec);
        assert!(error.message().starts_with(message), "{spec:?}: {error}");
        assert_eq!(error.column(), column, "{spec:?}: {error}");
    }
}

#[test]
fn a_caret_points_at_the_column() {
    let pointed = error("sized order=left").pointed();
    let lines: Vec<&str> = pointed.lines().collect();
    assert_eq!(lines[1].chars().nth(lines[2].len() - 1), Some('l'));
    assert!(lines[2].ends_with('^'));
}

#[test]
fn a_program_adds_and_replaces_policies() {
    let mut registry = Registry::builtin();
    registry.register("fcfs", "another", |_, _| Ok(Box::new(Fcfs)));
    let help: Vec<_> = registry.help().filter(|(name, _)| name == "fcfs").collect();
    assert_eq!(help, [("fcfs".to_owned(), "another")]);
    assert!(registry.make(" fcfs ", &PolicyContext::default()).is_ok());
}
