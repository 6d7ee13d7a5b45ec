//! Stop strings against a search of the whole text.

use proptest::prelude::*;

use super::super::{StopMatcher, StopOutput};

/// What must come out: the text before the match that starts first (and of those that start
/// together ends first), and its index.
fn brute_force(text: &str, stops: &[String]) -> (String, Option<usize>) {
    let matches = stops.iter().enumerate().filter_map(|(index, stop)| {
        text.find(stop.as_str()).map(|start| (start, start + stop.len(), index))
    });
    match matches.min() {
        Some((start, _, index)) => (text[..start].to_owned(), Some(index)),
        None => (text.to_owned(), None),
    }
}

fn run<'a>(portions: impl Iterator<Item = &'a str>, stops: &[String]) -> (String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops);
    let mut text = String::new();
    let mut matched = None;
    let mut take = |output: StopOutput| {
        assert!(matched.is_none() || output == StopOutput::default(), "{output:?} after a match");
        text.push_str(&output.text);
        matched = matched.or(output.matched);
    };
    for portion in portions {
        take(matcher.push(portion));
    }
    take(matcher.finish());
    (text, matched)
}

/// The same where no match may end within the first `num_exempt` bytes.
fn brute_force_after(text: &str, num_exempt: usize, stops: &[String]) -> (String, Option<usize>) {
    let ends = (num_exempt + 1..=text.len()).filter(|&end| text.is_char_boundary(end));
    let matches = ends.flat_map(|end| {
        let ended = &text[..end];
        let ending = stops.iter().enumerate().filter(|(_, stop)| ended.ends_with(stop.as_str()));
        ending.map(move |(index, stop)| (end - stop.len(), end, index))
    });
    match matches.min() {
        Some((start, _, index)) => (text[..start].to_owned(), Some(index)),
        None => (text.to_owned(), None),
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// Cuts `text` into portions of the given numbers of characters, again and again.
fn cut<'a>(text: &'a str, lengths: &'a [usize]) -> Vec<&'a str> {
    let mut portions = Vec::new();
    let mut rest = text;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let at = rest.char_indices().nth(length.max(1)).map_or(rest.len(), |(at, _)| at);
        let (portion, after) = rest.split_at(at);
        portions.push(portion);
        rest = after;
    }
    portions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_chunking_gives_what_a_search_gives(
        text in "[abé🎉]{0,40}",
        stops in proptest::collection::vec("[abé🎉]{1,5}", 0..5),
        lengths in proptest::collection::vec(1usize..6, 1..6),
    ) {
        // Two equal strings match alike, and the first index is as good as the second.
        let mut unique: Vec<String> = Vec::new();
        for stop in stops {
            if !unique.contains(&stop) {
                unique.push(stop);
            }
        }
        let found = run(cut(&text, &lengths).into_iter(), &unique);
        prop_assert_eq!(found, brute_force(&text, &unique));
    }

    #[test]
    fn no_match_ends_in_what_is_exempt_but_one_may_begin_there(
        exempt in "[abé🎉]{0,12}",
        text in "[abé🎉]{0,20}",
        stops in proptest::collection::vec("[abé🎉]{1,5}", 0..5),
        lengths in proptest::collection::vec(1usize..6, 1..6),
    ) {
        let mut unique: Vec<String> = Vec::new();
        for stop in stops {
            if !unique.contains(&stop) {
                unique.push(stop);
            }
        }
        let mut matcher = StopMatcher::new(&unique);
        let exempt_portions = cut(&exempt, &lengths).into_iter();
        let mut outputs: Vec<_> = exempt_portions.map(|part| matcher.push_exempt(part)).collect();
        outputs.extend(cut(&text, &lengths).into_iter().map(|part| matcher.push(part)));
        outputs.push(matcher.finish());
        let shown: String = outputs.iter().map(|output| output.text.as_str()).collect();
        let found = (shown, outputs.iter().find_map(|output| output.matched));
        let whole = format!("{exempt}{text}");
        prop_assert_eq!(found, brute_force_after(&whole, exempt.len(), &unique));
    }

    #[test]
    fn only_what_may_become_a_match_is_held(
        text in "[ab]{0,30}",
        stops in proptest::collection::vec("[ab]{1,6}", 1..4),
    ) {
        let mut matcher = StopMatcher::new(&stops);
        let mut num_out = 0;
        for (at, c) in text.char_indices() {
            let output = matcher.push(&text[at..=at]);
            prop_assert!(c.is_ascii());
            num_out += output.text.len();
            if output.matched.is_some() {
                break;
            }
            let held = &text[num_out..=at];
            let is_open = stops.iter().any(|s| s.len() > held.len() && s.starts_with(held));
            prop_assert!(held.is_empty() || is_open, "{:?} was held back", held);
        }
    }
}

#[test]
fn a_match_may_span_portions_and_is_never_shown() {
    let stops = strings(&["\n\nUser:"]);
    let portions = ["Hello.", "\n", "\nUs", "er", ": what"];
    assert_eq!(run(portions.into_iter(), &stops), ("Hello.".to_owned(), Some(0)));
}

#[test]
fn a_false_start_is_given_back() {
    let mut matcher = StopMatcher::new(&strings(&["END"]));
    assert_eq!(matcher.push("the E").text, "the ");
    assert_eq!(matcher.push("N").text, "");
    assert_eq!(matcher.push("V").text, "ENV");
    assert_eq!(matcher.push("EN").text, "");
    assert_eq!(matcher.finish().text, "EN");
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    for stops in [["bc", "abcd"], ["abcd", "bc"]] {
        let stops = strings(&stops);
        let (text, matched) = run(cut("xabcd", &[1]).into_iter(), &stops);
        assert_eq!((text.as_str(), stops[matched.unwrap()].as_str()), ("x", "abcd"));
        // The earlier, longer candidate does not come true, so the later one counts.
        for whole in ["xabc", "xabcx"] {
            let (text, matched) = run(cut(whole, &[1]).into_iter(), &stops);
            assert_eq!((text.as_str(), stops[matched.unwrap()].as_str()), ("xa", "bc"));
        }
    }
}

#[test]
fn without_stop_strings_text_passes_through() {
    let mut matcher = StopMatcher::new(&[]);
    assert_eq!(matcher.push("héllo").text, "héllo");
    assert_eq!(matcher.finish(), StopOutput::default());
}
