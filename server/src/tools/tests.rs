//! Parsers against transcripts in each format, cut in all kinds of ways.

use std::sync::Arc;

use super::format::{ReasoningFormat, ReasoningStart, ToolFormat};
use super::{CallSettings, ChatFormats, ChatParser, ParserSettings, Part};

/// An answer, put together again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    reasoning_end: Option<usize>,
}

impl Answer {
    fn add(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Content(text) => self.content.push_str(&text),
                Part::CallStart(name) => self.calls.push((name, String::new())),
                Part::CallArguments(text) => self.calls.last_mut().unwrap().1.push_str(&text),
            }
        }
    }
}

fn calls(format: ToolFormat) -> ParserSettings {
    let names: Arc<[String]> = ["get_weather", "add"].map(str::to_owned).into();
    let calls = Some(CallSettings { format, names, max_calls: u32::MAX });
    ParserSettings { calls, reasoning: None }
}

fn thinks(start: ReasoningStart) -> ParserSettings {
    ParserSettings { calls: None, reasoning: Some((ReasoningFormat::Think, start)) }
}

fn parse<'a>(
    settings: &ParserSettings,
    portions: impl IntoIterator<Item = &'a str>,
) -> (Answer, Vec<Part>) {
    let mut parser = ChatParser::new(settings);
    let mut answer = Answer::default();
    let mut all = Vec::new();
    for portion in portions {
        let parts = parser.push(portion);
        all.extend(parts.clone());
        answer.add(parts);
    }
    let parts = parser.finish();
    all.extend(parts.clone());
    answer.add(parts);
    answer.reasoning_end = parser.reasoning_end();
    (answer, all)
}

fn whole(settings: &ParserSettings, text: &str) -> Answer {
    parse(settings, [text]).0
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn portions<'a>(text: &'a str, random: &mut Random) -> Vec<&'a str> {
    let mut portions = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let wanted = 1 + random.below(12);
        let len = rest.char_indices().nth(wanted).map_or(rest.len(), |(at, _)| at);
        let (portion, after) = rest.split_at(len);
        portions.push(portion);
        rest = after;
    }
    portions
}

/// A transcript: the format, the text, the content, the calls.
type Row = (ToolFormat, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const SUNNY: (&str, &str) = ("get_weather", r#"{"city": "Zürich", "days": 3}"#);
const SUM: (&str, &str) = ("add", r#"{"terms": [1, -2.5e3, {"x": "}]\"{"}], "exact": true}"#);

fn transcripts() -> Vec<Row> {
    [calls_of_hermes(), no_calls_of_hermes(), of_llama(), of_mistral()].concat()
}

fn calls_of_hermes() -> Vec<Row> {
    use ToolFormat::Hermes;
    vec![
        (Hermes, "Hello there.\n", "Hello there.\n", &[]),
        (
            Hermes,
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\", \
             \"days\": 3}}\n</tool_call>",
            "",
            &[SUNNY],
        ),
        (
            Hermes,
            "I will look.\n\n<tool_call>{\"name\":\"get_weather\",\"arguments\":{\"city\": \
             \"Zürich\", \"days\": 3}}</tool_call>\n<tool_call>\n{\"arguments\": {\"terms\": [1, \
             -2.5e3, {\"x\": \"}]\\\"{\"}], \"exact\": true}, \"name\": \"add\"}\n</tool_call>\n",
            "I will look.",
            &[SUNNY, SUM],
        ),
        // Two calls between one pair of marks, and a text after them.
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": {}}\n{\"name\": \"b\"}</tool_call> Done.",
            " Done.",
            &[("a", "{}"), ("b", "{}")],
        ),
        // The closing mark is missing.
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": {}}\n<tool_call>{\"name\": \"b\", \
             \"parameters\": null}",
            "",
            &[("a", "{}"), ("b", "{}")],
        ),
        // Arguments in a string, and a line break in a string.
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"x\\\": \\\"é\\\"}\"}</tool_call>",
            "",
            &[("a", "{\"x\": \"é\"}")],
        ),
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": {\"code\": \"x\n\ty\"}}</tool_call>",
            "",
            &[("a", "{\"code\": \"x\\n\\ty\"}")],
        ),
    ]
}

fn no_calls_of_hermes() -> Vec<Row> {
    use ToolFormat::Hermes;
    vec![
        // What is no call is text, with its marks.
        (Hermes, "Use <tool_call> tags.", "Use <tool_call> tags.", &[]),
        (Hermes, "<tool_call>\n[1, 2]</tool_call>", "<tool_call>\n[1, 2]</tool_call>", &[]),
        (
            Hermes,
            "<tool_call>{\"name\": 3}</tool_call>",
            "<tool_call>{\"name\": 3}</tool_call>",
            &[],
        ),
        (
            Hermes,
            "<tool_call>{\"arguments\": [1], \"name\": \"a\"}</tool_call>",
            "<tool_call>{\"arguments\": [1], \"name\": \"a\"}</tool_call>",
            &[],
        ),
        (Hermes, "<tool_call>{'name': 1}", "<tool_call>{'name': 1}", &[]),
        (Hermes, "a <tool_", "a <tool_", &[]),
        (Hermes, "<tool_call>{\"na", "<tool_call>{\"na", &[]),
        (Hermes, "<tool_call>\n", "<tool_call>\n", &[]),
        // Cut off, or broken, after it had become a call.
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": [1, ",
            "",
            &[("a", "{\"x\": [1, ")],
        ),
        (
            Hermes,
            "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": oops}}</tool_call>",
            "oops}}</tool_call>",
            &[("a", "{\"x\": ")],
        ),
    ]
}

fn of_llama() -> Vec<Row> {
    use ToolFormat::Llama3Json;
    vec![
        (
            Llama3Json,
            "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Zürich\", \"days\": 3}}",
            "",
            &[SUNNY],
        ),
        (
            Llama3Json,
            "<|python_tag|>{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": \
             {\"city\": \"Zürich\", \"days\": 3}}; {\"name\": \"add\", \"parameters\": \
             {\"terms\": [1, -2.5e3, {\"x\": \"}]\\\"{\"}], \"exact\": true}}\n",
            "",
            &[SUNNY, SUM],
        ),
        (
            Llama3Json,
            "Let me see. <|python_tag|>{\"name\": \"add\", \"parameters\": {}}",
            "Let me see.",
            &[("add", "{}")],
        ),
        (Llama3Json, "  Plain text, {\"name\": 1}", "  Plain text, {\"name\": 1}", &[]),
        (Llama3Json, ", no", ", no", &[]),
        // JSON that calls none of the tools is an answer.
        (
            Llama3Json,
            "{\"name\": \"Ada\", \"parameters\": {}}",
            "{\"name\": \"Ada\", \"parameters\": {}}",
            &[],
        ),
        (Llama3Json, "{\"city\": \"Bern\"}", "{\"city\": \"Bern\"}", &[]),
        (Llama3Json, "<|python_tag|>print(1)", "<|python_tag|>print(1)", &[]),
        (Llama3Json, "<|python_tag|>", "<|python_tag|>", &[]),
        (Llama3Json, "<|pyth{", "<|pyth{", &[]),
        (
            Llama3Json,
            "{\"name\": \"add\", \"parameters\": {}} That is it.",
            " That is it.",
            &[("add", "{}")],
        ),
    ]
}

/// Of older models and of newer ones.
fn of_mistral() -> Vec<Row> {
    use ToolFormat::Mistral;
    vec![
        (
            Mistral,
            "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\", \
             \"days\": 3}}, {\"name\": \"add\", \"arguments\": {\"terms\": [1, -2.5e3, {\"x\": \
             \"}]\\\"{\"}], \"exact\": true}, \"id\": \"abcdefghi\"}]",
            "",
            &[SUNNY, SUM],
        ),
        (
            Mistral,
            "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Zürich\", \"days\": 3}[TOOL_CALLS]add\
             [CALL_ID]abcdefghi[ARGS]{\"terms\": [1, -2.5e3, {\"x\": \"}]\\\"{\"}], \"exact\": \
             true}",
            "",
            &[SUNNY, SUM],
        ),
        (
            Mistral,
            "One moment.[TOOL_CALLS] add {\"x\": \"\n\"}",
            "One moment.",
            &[("add", "{\"x\": \"\\n\"}")],
        ),
        (Mistral, "[TOOL_CALLS]{\"name\": \"add\", \"arguments\": {}}", "", &[("add", "{}")]),
        (Mistral, "[TOOL_CALLS] [] none", "[TOOL_CALLS] [] none", &[]),
        (Mistral, "[TOOL_CALLS]what is this?", "[TOOL_CALLS]what is this?", &[]),
        (Mistral, "[TOOL_CALLS]add[ARGS]5", "[TOOL_CALLS]add[ARGS]5", &[]),
        (Mistral, "[TOOL_CALLS]add[AR", "[TOOL_CALLS]add[AR", &[]),
        (Mistral, "[TOOL_C", "[TOOL_C", &[]),
        (Mistral, "See [1] and [TOOLS].", "See [1] and [TOOLS].", &[]),
        (Mistral, "[TOOL_CALLS]add[ARGS]{\"x\": [", "", &[("add", "{\"x\": [")]),
        (Mistral, "[TOOL_CALLS]add[ARGS]{\"x\" 1}", "1}", &[("add", "{\"x\" ")]),
    ]
}

#[test]
fn transcripts_are_taken_apart() {
    for (format, text, content, expected) in transcripts() {
        let answer = whole(&calls(format), text);
        let owned =
            |(name, arguments): &(&str, &str)| ((*name).to_owned(), (*arguments).to_owned());
        let expected: Vec<_> = expected.iter().map(owned).collect();
        assert_eq!((answer.content.as_str(), &answer.calls), (content, &expected), "{text}");
    }
}

#[test]
fn portions_make_no_difference() {
    for (format, text, ..) in transcripts() {
        for thinking in ["", "<think>\nhm, {\"a\"\n\n</think>\n\n", "<think>", "</think>"] {
            let text = format!("{thinking}{text}");
            let mut settings = calls(format);
            settings.reasoning = Some((ReasoningFormat::Think, ReasoningStart::Outside));
            let expected = whole(&settings, &text);
            for seed in 0..40 {
                let portions = portions(&text, &mut Random(seed));
                let answer = parse(&settings, portions.iter().copied()).0;
                assert_eq!(answer, expected, "seed {seed}: {portions:?}");
            }
        }
    }
}

/// Nonsense made of the formats' own pieces: nothing panics, nothing depends on the portions, and
/// but for marks and white space nothing is lost.
#[test]
fn random_texts_lose_nothing() {
    const PIECES: [&str; 26] = [
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"add\", ",
        "\"arguments\": ",
        "{\"x\": 1}",
        "}",
        "{",
        "[",
        "]",
        "\"",
        "\\",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "add",
        "<|python_tag|>",
        ";",
        ",",
        " ",
        "\n",
        "1e",
        "é",
        "<",
        "nul",
        "\"parameters\": {}",
        "<think>",
    ];
    let letters = |text: &str| -> Vec<char> {
        let mut letters: Vec<char> = text.chars().filter(|c| "xé1".contains(*c)).collect();
        letters.sort_unstable();
        letters
    };
    for seed in 0..3000 {
        let mut random = Random(seed);
        let num = 1 + random.below(16);
        let text: String = (0..num).map(|_| PIECES[random.below(PIECES.len())]).collect();
        for format in [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral] {
            let settings = calls(format);
            let answer = whole(&settings, &text);
            let portions = portions(&text, &mut random);
            let cut = parse(&settings, portions.iter().copied()).0;
            assert_eq!(cut, answer, "seed {seed} {format:?}: {portions:?}");
            let kept = format!("{}{:?}", answer.content, answer.calls);
            // Values of fields that are no part of a call are left out with it.
            let may_lose = !answer.calls.is_empty();
            if !may_lose {
                assert_eq!(letters(&kept), letters(&text), "seed {seed} {format:?}: {text}");
                let squeezed = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(squeezed(&answer.content), squeezed(&text), "seed {seed} {format:?}");
            }
        }
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let text = "<tool_call>{\"name\": \"add\", \"arguments\": {\"x\": 1, \"y\": 2}}</tool_call>";
    let letters: Vec<String> = text.chars().map(|c| c.to_string()).collect();
    let (_, parts) = parse(&calls(ToolFormat::Hermes), letters.iter().map(String::as_str));
    assert_eq!(parts[0], Part::CallStart("add".into()));
    let arguments: Vec<_> =
        "{\"x\": 1, \"y\": 2}".chars().map(|c| Part::CallArguments(c.to_string())).collect();
    assert_eq!(parts[1..], arguments);
}

#[test]
fn content_is_held_back_only_while_it_may_be_a_mark() {
    let mut parser = ChatParser::new(&calls(ToolFormat::Hermes));
    let content = |text: &str| vec![Part::Content(text.to_owned())];
    assert_eq!(parser.push("Hi"), content("Hi"));
    assert_eq!(parser.push(" the"), content(" the"));
    assert_eq!(parser.push("re\n"), content("re"));
    assert_eq!(parser.push("<tool"), vec![]);
    assert_eq!(parser.push("s>"), content("\n<tools>"));
}

#[test]
fn calls_beyond_the_limit_are_left_out() {
    let mut settings = calls(ToolFormat::Hermes);
    settings.calls.as_mut().unwrap().max_calls = 1;
    let call = "<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>";
    let answer = whole(&settings, &format!("{call}{call}"));
    assert_eq!(answer.calls, [("add".to_owned(), "{}".to_owned())]);
}

#[test]
fn reasoning_is_split_from_the_answer() {
    use ReasoningStart::{Inside, Outside};
    for (start, text, reasoning, content, end) in [
        (Outside, "<think>\nWell.\n</think>\n\nYes.", "Well.", "Yes.", Some(22)),
        (Outside, "  <think>a\n\nb</think>c", "a\n\nb", "c", Some(21)),
        (Outside, "Yes.", "", "Yes.", Some(0)),
        (Outside, "\n\n Yes.", "", "\n\n Yes.", Some(0)),
        (Outside, "No <think>x</think>", "", "No <think>x</think>", Some(0)),
        (Outside, "<thin", "", "<thin", Some(0)),
        (Outside, "", "", "", Some(0)),
        (Outside, "<think></think>", "", "", Some(15)),
        (Outside, "<think>never </thin", "never </thin", "", None),
        (Inside, "\nWell.\n</think>\n\nYes.", "Well.", "Yes.", Some(15)),
        (Inside, "Well", "Well", "", None),
        (Inside, "</think>x", "", "x", Some(8)),
    ] {
        let settings = thinks(start);
        let answer = whole(&settings, text);
        assert_eq!((answer.reasoning.as_str(), answer.content.as_str()), (reasoning, content));
        assert_eq!(answer.reasoning_end, end, "{text:?}");
        for seed in 0..20 {
            let portions = portions(text, &mut Random(seed));
            assert_eq!(parse(&settings, portions).0, answer, "seed {seed}: {text:?}");
        }
    }
}

#[test]
fn calls_inside_of_reasoning_are_thoughts() {
    let mut settings = calls(ToolFormat::Hermes);
    settings.reasoning = Some((ReasoningFormat::Think, ReasoningStart::Inside));
    let call = "<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>";
    let answer = whole(&settings, &format!("maybe {call}</think>\n{call}"));
    assert_eq!(answer.reasoning, format!("maybe {call}"));
    assert_eq!(answer.calls.len(), 1);
    assert_eq!(answer.content, "");
}

/// What is found in a template, and what an operator may say instead.
#[test]
fn formats_are_found_or_named() {
    use crate::text::TemplateSource;
    for (template, tools, reasoning) in [
        ("{{ messages }}", None, None),
        ("{{ tools }} <tool_call>", Some(ToolFormat::Hermes), None),
        ("<tool_call> in the past only", None, None),
        ("{{ tools }} <tool_call>\n<function=", None, None),
        ("{{ tools }} <tool_call>{{ name }}<arg_key>", None, None),
        ("{{ tools }} [TOOL_CALLS]", Some(ToolFormat::Mistral), None),
        ("{{ tools }} <|python_tag|>", Some(ToolFormat::Llama3Json), None),
        ("{{ tools }} <|start_header_id|> \"parameters\"", Some(ToolFormat::Llama3Json), None),
        ("{{ tools }}", None, None),
        ("<think>\n</think>", None, Some(ReasoningFormat::Think)),
        ("[THINK] [/THINK]", None, Some(ReasoningFormat::Mistral)),
    ] {
        let found = ChatFormats::detect(&TemplateSource::single(template));
        assert_eq!((found.tools, found.reasoning), (tools, reasoning), "{template}");
    }
    let none = ChatFormats::default();
    let named = none.with_names("llama3_json", "deepseek_r1").unwrap();
    assert_eq!(named.tools, Some(ToolFormat::Llama3Json));
    assert_eq!(named.reasoning, Some(ReasoningFormat::Think));
    assert_eq!(named.with_names("auto", "auto").unwrap(), named);
    assert_eq!(named.with_names("none", "none").unwrap(), none);
    let error = none.with_names("pythonic", "auto").unwrap_err().to_string();
    assert!(error.contains("--tool-call-parser") && error.contains("mistral"), "{error}");
}
