//! Loading a model's templates, and the parts of rendering that the goldens leave out.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::{ChatInput, ChatTemplate, Error, GenerationPrompt, TemplateSource, TextModel};

const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"?": 0, "hi": 1, "</s>": 2}, "unk_token": "?"}}"#;

/// A model of the given files, and a tokenizer.
fn model(files: &[(&str, &str)], template: Option<&str>) -> Result<TextModel, Error> {
    let files: HashMap<&str, &str> =
        files.iter().copied().chain([("tokenizer.json", TOKENIZER)]).collect();
    let read = |name: &str| Ok(files.get(name).map(|text| text.as_bytes().to_vec()));
    TextModel::load("tiny", &read, template)
}

fn input(messages: &[Value]) -> ChatInput<'_> {
    ChatInput {
        messages,
        tools: None,
        documents: None,
        generation_prompt: GenerationPrompt::Add,
        kwargs: None,
        now: 0,
    }
}

fn hi() -> Vec<Value> {
    vec![json!({"role": "user", "content": "hi"})]
}

fn render(template: &str, messages: &[Value]) -> Result<String, Error> {
    ChatTemplate::new(TemplateSource::single(template), Vec::new())?.render(&input(messages))
}

#[test]
fn the_file_wins_over_the_configuration() {
    let config = (
        "tokenizer_config.json",
        r#"{"chat_template": "old {{ eos_token }}", "eos_token": "</s>"}"#,
    );
    let old = model(&[config], None).unwrap();
    assert_eq!(old.render_chat(&input(&hi())).unwrap(), "old </s>");
    assert_eq!(old.special_token_id("eos_token"), Some(2));
    let new = model(&[config, ("chat_template.jinja", "new {{ eos_token }}")], None).unwrap();
    assert_eq!(new.render_chat(&input(&hi())).unwrap(), "new </s>");
    let own = model(&[config], Some("hi {{ eos_token }}")).unwrap();
    assert_eq!(own.encode_chat(&input(&hi()), 2).unwrap(), [1, 2]);
}

#[test]
fn conversations_with_tools_get_the_template_for_tools() {
    let list = r#"{"chat_template": [{"name": "default", "template": "plain"},
                                     {"name": "tool_use", "template": "tools"}]}"#;
    let file = ("chat_template.jinja", "plain");
    let tool_file = ("additional_chat_templates/tool_use.jinja", "tools");
    let models = [
        model(&[("tokenizer_config.json", list)], None).unwrap(),
        model(&[file, tool_file], None).unwrap(),
    ];
    let tools = [json!({"type": "function"})];
    for model in models {
        let messages = hi();
        let with_tools = ChatInput { tools: Some(&tools), ..input(&messages) };
        let no_tools = ChatInput { tools: Some(&[]), ..input(&messages) };
        assert_eq!(model.render_chat(&input(&messages)).unwrap(), "plain");
        assert_eq!(model.render_chat(&with_tools).unwrap(), "tools");
        assert_eq!(model.render_chat(&no_tools).unwrap(), "plain");
    }
}

#[test]
fn a_model_without_a_template_is_named() {
    let error = model(&[], None).unwrap().render_chat(&input(&hi())).unwrap_err();
    assert_eq!(error, Error::NoChatTemplate { model: "tiny".to_owned() });
    assert!(error.to_string().contains("model tiny has no chat template"), "{error}");
}

#[test]
fn a_templates_refusal_is_told_apart_from_its_defects() {
    let refused = render("{{ raise_exception('Only one user, please.') }}", &hi());
    assert_eq!(refused, Err(Error::Refused("Only one user, please.".to_owned())));
    let broken = render("line\n{{ messages | shout }}", &hi()).unwrap_err().to_string();
    assert!(broken.starts_with("chat template default: "), "{broken}");
    assert!(broken.contains("shout") && broken.contains(":2"), "{broken}");
    let config = r#"{"chat_template": "{% if %}"}"#;
    let error = model(&[("tokenizer_config.json", config)], None).unwrap_err();
    assert!(matches!(error, Error::Template { .. }), "{error}");
    let config = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
    let error = model(&[("tokenizer_config.json", config)], None).unwrap_err().to_string();
    assert!(error.ends_with("the list has no template named default"), "{error}");
}

#[test]
fn developers_are_known_or_the_system() {
    let roles = "{# for a developer #}{% for m in messages %}{{ m.role }} {% endfor %}";
    let messages = [json!({"role": "developer", "content": "x"})];
    let old = model(&[("chat_template.jinja", roles)], None).unwrap();
    assert_eq!(old.render_chat(&input(&messages)).unwrap(), "system ");
    let knowing = format!("{roles}{{% if messages[0].role == 'developer' %}}!{{% endif %}}");
    let new = model(&[("chat_template.jinja", &knowing)], None).unwrap();
    assert_eq!(new.render_chat(&input(&messages)).unwrap(), "developer !");
}

#[test]
fn keywords_are_variables_but_may_not_hide_the_conversation() {
    let template = TemplateSource::single("{{ enable_thinking }} {{ messages | length }}");
    let template = ChatTemplate::new(template, Vec::new()).unwrap();
    let messages = hi();
    let render = |name: &str| {
        let kwargs: Map<String, Value> = [(name.to_owned(), json!(false))].into_iter().collect();
        template.render(&ChatInput { kwargs: Some(&kwargs), ..input(&messages) })
    };
    assert_eq!(render("enable_thinking").unwrap(), "False 1");
    let error = render("messages").unwrap_err().to_string();
    assert!(error.starts_with("chat_template_kwargs.messages: "), "{error}");
}

#[test]
fn an_empty_conversation_is_refused() {
    let error = render("x", &[]).unwrap_err().to_string();
    assert_eq!(error, "messages: must hold at least one message");
}

#[test]
fn the_time_is_the_callers() {
    let template = "{{ strftime_now('%Y-%m-%d %H:%M:%S|%d %b %Y|%-d %B, %A') }}";
    let template = ChatTemplate::new(TemplateSource::single(template), Vec::new()).unwrap();
    let messages = hi();
    let text = template.render(&ChatInput { now: 1_709_251_199, ..input(&messages) }).unwrap();
    assert_eq!(text, "2024-02-29 23:59:59|29 Feb 2024|29 February, Thursday");
}

#[test]
fn generation_tags_print_nothing_wherever_they_stand() {
    let cases = [
        ("a{% generation %}b{% endgeneration %}c", "abc"),
        ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{# {% generation %} #}x", "x"),
        ("{% raw %}{% generation %}{% endraw %}", "{% generation %}"),
        ("{{ '{% generation %}' }}", "{% generation %}"),
        ("{% set t = '%}{% generation %}' %}{{ t }}", "%}{% generation %}"),
        ("{ {{ \"it's {\" }} }", "{ it's { }"),
        ("{{ {'a': {'b': 1}}.a.b }}", "1"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template, &hi()).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn json_is_as_pythons() {
    let value =
        r#"{"b": [1, 1e-7, 1e16, 123456.5, -0.0, 18446744073709551615], "ä": "<&'\"/\u0001🎉"}"#;
    let value: Value = serde_json::from_str(value).unwrap();
    let template = |filter: &str| TemplateSource::single(format!("{{{{ v | {filter} }}}}"));
    let kwargs: Map<String, Value> = [("v".to_owned(), value)].into_iter().collect();
    let messages = hi();
    let render = |filter: &str| {
        let template = ChatTemplate::new(template(filter), Vec::new()).unwrap();
        template.render(&ChatInput { kwargs: Some(&kwargs), ..input(&messages) }).unwrap()
    };
    let numbers = "[1, 1e-07, 1e+16, 123456.5, -0.0, 18446744073709551615]";
    assert_eq!(render("tojson"), format!(r#"{{"b": {numbers}, "ä": "<&'\"/\u0001🎉"}}"#));
    assert_eq!(
        render("tojson(ensure_ascii=true, sort_keys=true)"),
        format!(r#"{{"b": {numbers}, "\u00e4": "<&'\"/\u0001\ud83c\udf89"}}"#)
    );
    let compact = render("tojson(separators=(',', ':'))");
    assert!(compact.starts_with("{\"b\":[1,1e-07,"), "{compact}");
    let indented = render("tojson(indent=2)");
    assert!(indented.starts_with("{\n  \"b\": [\n    1,\n    1e-07,"), "{indented}");
}

/// What Jinja2 makes of each, where the engine by itself makes something else.
#[test]
fn values_are_tested_and_converted_as_in_jinja() {
    let cases = [
        ("none is iterable", "False"),
        ("nothing is iterable", "True"),
        ("'s' is iterable", "True"),
        ("1 is iterable", "False"),
        ("'s' is sequence", "True"),
        ("{} is sequence", "True"),
        ("none is sequence", "False"),
        ("'x' | int", "0"),
        ("'x' | int(7)", "7"),
        ("' 12 ' | int + 1", "13"),
        ("'1.9' | int", "1"),
        ("-3.7 | int", "-3"),
        ("true | int", "1"),
        ("[1] | int", "0"),
        ("12345678901234567890 | int", "12345678901234567890"),
        ("'1.5' | float", "1.5"),
        ("'x' | float", "0.0"),
        ("2 | float", "2.0"),
        ("'aéb'.index('b')", "2"),
        ("'a-b-c'.rsplit('-', 1)", "['a-b', 'c']"),
        ("' a  b '.rsplit()", "['a', 'b']"),
        ("'a-b-c'.partition('-')", "('a', '-', 'b-c')"),
        ("'a-b-c'.rpartition('-')", "('a-b', '-', 'c')"),
        ("'abc'.removeprefix('a').removesuffix('c')", "b"),
        ("[1, 2].index(2)", "1"),
        ("1e20", "1e+20"),
        ("123456789.5", "123456789.5"),
    ];
    for (expression, expected) in cases {
        let text = render(&format!("{{{{ {expression} }}}}"), &hi());
        assert_eq!(text.as_deref(), Ok(expected), "{expression}");
    }
}

#[test]
fn a_conversation_may_be_continued() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";
    let template = ChatTemplate::new(TemplateSource::single(template), Vec::new()).unwrap();
    let mut messages = hi();
    messages.push(json!({"role": "assistant", "content": "Once upon "}));
    let input =
        ChatInput { generation_prompt: GenerationPrompt::ContinueFinal, ..input(&messages) };
    assert_eq!(template.render(&input).unwrap(), "<user>hi</><assistant>Once upon");
}
