"""Chats, and which template of `chat_templates/` renders each; the templates are our own."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a place <now> & "later"\nin °C',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town, as in Köln"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7.5},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "tags": {"type": "array", "items": {"type": ["string", "null"]}},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "parameters": {"properties": {}}}}

SYSTEM = {"role": "system", "content": "Answer briefly."}
HELLO = {"role": "user", "content": "Hello, who are you?"}
REPLY = {"role": "assistant", "content": "  A small model.\n"}
AGAIN = {
    "role": "user",
    "content": " And in <b>French</b> & Greek: Ελλάδα 🎉? {{ 1 + 1 }} {% raw %}",
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {
                "name": "get_weather",
                "arguments": {"unit": "C", "place": "Köln", "days": 2, "tags": [None, True, 1.5]},
            },
        }
    ],
}
TWO_CALLS = CALL | {
    "content": "Looking.",
    "tool_calls": CALL["tool_calls"]
    + [{"id": "call_2", "type": "function", "function": {"name": "now", "arguments": {}}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "18 °C, rain"}
RESULT_2 = {"role": "tool", "tool_call_id": "call_2", "content": "12:30"}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, 6 by 7.\n</think>\n\n42"}

SHORT = [HELLO]
CHAT = [HELLO, REPLY, AGAIN]
WITH_SYSTEM = [SYSTEM, *CHAT]
TOOL_CHAT = [SYSTEM, HELLO, TWO_CALLS, RESULT, RESULT_2, REPLY, AGAIN]
MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
NOW = "2025-03-04T09:05:07"
PROMPT = {"add_generation_prompt": True}
CONTINUE = {"continue_final_message": True}


def _parts(*parts):
    return [{"role": "user", "content": list(parts)}]


def _chatml_cases():
    null_call = CALL | {"content": None}
    bare_call = {"role": "assistant", "tool_calls": [CALL["tool_calls"][0]["function"]]}
    return [
        ("chatml-tools", "short", SHORT, PROMPT),
        ("chatml-tools", "system", WITH_SYSTEM, PROMPT),
        ("chatml-tools", "no-generation-prompt", WITH_SYSTEM, {}),
        ("chatml-tools", "late-system", [HELLO, SYSTEM, AGAIN], PROMPT),
        ("chatml-tools", "tools", SHORT, PROMPT | {"tools": [WEATHER, CLOCK]}),
        ("chatml-tools", "tools-empty", SHORT, PROMPT | {"tools": []}),
        ("chatml-tools", "calls-and-results", TOOL_CHAT, PROMPT | {"tools": [WEATHER]}),
        ("chatml-tools", "content-null", [HELLO, null_call, RESULT], PROMPT),
        ("chatml-tools", "bare-call", [HELLO, bare_call, RESULT, RESULT_2], PROMPT),
        ("chatml-tools", "continue", CHAT[:2], CONTINUE),
        ("chatml-tools", "no-messages", [], PROMPT),
        ("chatml-tools", "content-missing", [{"role": "user"}], PROMPT),
        ("chatml-thinking", "short", SHORT, PROMPT),
        ("chatml-thinking", "off", SHORT, PROMPT | {"enable_thinking": False}),
        ("chatml-thinking", "on", WITH_SYSTEM, PROMPT | {"enable_thinking": True}),
        ("chatml-thinking", "past-thought-is-cut", [HELLO, THOUGHT, AGAIN], PROMPT),
        ("chatml-thinking", "last-thought-stays", [HELLO, THOUGHT], {}),
        (
            "chatml-thinking",
            "reasoning-field",
            [HELLO, {"role": "assistant", "content": "42", "reasoning_content": "6 by 7\n"}],
            {},
        ),
    ]


def _header_cases():
    tools = PROMPT | MARKS | {"tools": [WEATHER], "date_string": "1 Jan 2030"}
    system_tools = tools | {"tools_in_user_message": False}
    results = [HELLO, CALL, RESULT | {"content": {"degrees": 18, "sky": "rain"}}, AGAIN]
    return [
        ("header-ids", "clock", SHORT, PROMPT | MARKS),
        ("header-ids", "date-given", WITH_SYSTEM, PROMPT | MARKS | {"date_string": "1 Jan 2030"}),
        ("header-ids", "tools-in-user", WITH_SYSTEM, tools),
        ("header-ids", "tools-in-system", [SYSTEM, HELLO, CALL, RESULT], system_tools),
        ("header-ids", "result-is-a-mapping", results, system_tools),
        ("header-ids", "two-calls", TOOL_CHAT, system_tools),
        ("header-ids", "tools-without-user", [SYSTEM], tools),
        ("header-ids", "custom-tools", SHORT, system_tools | {"custom_tools": [CLOCK]}),
        ("header-ids", "no-bos", SHORT, PROMPT),
    ]


def _alternating_cases():
    return [
        ("inst", "chat", CHAT, MARKS),
        ("inst", "system", WITH_SYSTEM, MARKS),
        ("inst", "two-users", [HELLO, AGAIN], MARKS),
        ("inst", "assistant-first", [REPLY, HELLO], MARKS),
        ("inst", "tool-role", [HELLO, RESULT], MARKS),
        ("inst", "unknown-role", [HELLO, REPLY | {"role": "critic"}], MARKS),
        ("turns", "chat", CHAT, PROMPT | MARKS),
        ("turns", "no-generation-prompt", CHAT[:2], MARKS),
        ("turns", "system-refused", WITH_SYSTEM, PROMPT | MARKS),
        ("turns", "two-users", [HELLO, AGAIN], PROMPT | MARKS),
        ("turns", "continue", CHAT[:2], CONTINUE | MARKS),
        ("whitespace", "chat", WITH_SYSTEM, PROMPT | MARKS),
        ("whitespace", "no-generation-prompt", WITH_SYSTEM, MARKS),
        ("generation-tag", "chat", WITH_SYSTEM, PROMPT | MARKS),
        ("generation-tag", "closed", CHAT[:2], MARKS),
    ]


def _language_cases():
    text = {"type": "text", "text": "What is this?"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    notes = [
        HELLO,
        {"role": "note", "content": "n"},
        REPLY,
        AGAIN,
        HELLO | {"content": "STOP"},
        HELLO,
    ]
    documents = [{"title": "two words", "text": "First."}, {"title": "köln", "text": "Second."}]
    value = {
        "b": [1, 2.0, 1e20, -0.5],
        "a": {"é": "<&'\">", "n": None, "t": True},
        "e": [],
        "o": {},
    }
    nested = {"value": value | {"tab": "a\tb\\\n\u2028\u007f/"}}
    words = [SYSTEM, SYSTEM, HELLO, THOUGHT, HELLO | {"content": "one, two,  three\tfour"}]
    tabs = [HELLO | {"content": "\ta\tb \n"}, REPLY]
    calls = [HELLO, TWO_CALLS, RESULT, RESULT_2]
    return [
        ("parts", "text-and-picture", _parts(text, picture, "bare", text), PROMPT),
        ("parts", "string", CHAT, PROMPT),
        ("parts", "nothing", [{"role": "assistant", "content": None}], {}),
        ("parts", "unknown-part", _parts(text, {"type": "smell"}), PROMPT),
        ("signatures", "tools", SHORT, {"tools": [WEATHER, CLOCK]}),
        ("signatures", "calls", calls, {}),
        ("loop-controls", "notes", notes, {}),
        ("loop-controls", "one", SHORT, {}),
        ("namespace", "systems", words, PROMPT | MARKS),
        ("namespace", "assistant-first", [REPLY], MARKS),
        ("documents", "two", tabs, {"documents": documents}),
        ("documents", "none", tabs, {}),
        ("clock", "formats", SHORT, {}),
        ("json-text", "nested", SHORT, nested),
        ("json-text", "list", SHORT, {"value": [[], [1, [2]], {"k": {}}]}),
    ]


def _inline_cases():
    """Templates of one line, most of which must be refused: by a syntax, type or safety error."""
    templates = {
        "missing-end": "{% for m in messages %}{{ m.content }}",
        "unknown-tag": "{% shout %}x{% endshout %}",
        "unknown-filter": "{{ messages[0].content | shout }}",
        "unknown-function": "{{ shout('x') }}",
        "attribute-of-undefined": "{{ nothing.at.all }}",
        "adds-text-and-number": "{{ 'a' + 1 }}",
        "adds-text-and-none": "{{ 'a' + none }}",
        "mutates-a-list": "{{ messages.append('x') }}",
        "python-internals": "{{ ''.__class__.__mro__ }}",
        "huge-range": "{{ range(100000000) | list | length }}",
        "raise": "{{ raise_exception('Refused: ' ~ messages | length ~ \" 'quoted' \\u00e9\") }}",
        "raise-in-macro": "{% macro m() %}{{ raise_exception('inner') }}{% endmacro %}{{ m() }}",
        "raw": "{% raw %}{{ left alone }}{% endraw %}|{{ '{{' }}",
        "trailing-newline": "a\n{{ messages[0].role }}\n\n",
        "lstrip-block": "  {% if true %}\n  x\n  {%+ if true %}y{% endif +%}\n{% endif %}z",
        "autoescape-off": "{{ messages[0].content ~ '<&>' }}",
        "set-block": "{% set x %}a{{ 1 }}b{% endset %}{{ x | upper }}",
        "filter-block": "{% filter upper %}abc{% endfilter %}",
        "scope-of-set": "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}",
        "ternary-chain": "{{ 'a' if false else 'b' if false else 'c' }}",
        "negative-slice": "{{ messages[0].content[-4:-1] }}|{{ [1,2,3,4][1:-1] }}|"
        "{{ [1,2,3][::2] }}",
        "call-block": "{% macro q(x) %}<{{ caller() }}{{ x }}>{% endmacro %}"
        "{% call q(1) %}in{% endcall %}",
        "string-methods": "{{ 'a.b.c'.rsplit('.', 1) | join('+') }}|{{ 'xxaxx'.strip('x') }}|"
        "{{ 'a-b'.replace('-', '') }}|{{ 'ab'.startswith('a') and 'yes' }}|{{ 'a b'.title() }}|"
        "{{ 'abc'.find('c') }}|{{ 'aXbX'.count('X') }}|{{ ', '.join(['p', 'q']) }}|"
        "{{ 'line\\nline2'.splitlines() | length }}|{{ 'ab'.isalpha() and 'alpha' }}",
    }
    return [(template, name, SHORT, {}) for name, template in templates.items()]


def _python_cases():
    """How Python writes values down, an expression a case: other engines differ in some."""
    expressions = {
        "true": "true",
        "false": "false",
        "none": "none",
        "float": "1.0",
        "small-float": "1e-7",
        "integer-division": "7 // 2",
        "division": "7 / 2",
        "power": "2 ** 5",
        "remainder": "-7 % 3",
        "list": "[1, 'a', none, true]",
        "mapping": "{'k': \"it's\"}",
        "tuple": "('x',)",
        "undefined-name": "undefined_name",
        "undefined-key": "messages[0].missing",
        "length-in-characters": "'é🎉' | length",
        "reversed": "messages[0].content[::-1]",
        "format": "'%s-%d' | format('a', 3)",
        "repeat": "'a' * 3",
        "contains": "'ab' in 'cabd'",
        "test": "5 is divisibleby 5",
        "range": "range(3) | list",
        "string-and": "3 | string + 'x'",
        "int": "'12' | int + 1",
        "sort": "[3, 1, 2] | sort | join('')",
        "dict": "dict(a=1)",
        "if-without-else": "'x' if false",
        "message-as-text": "messages[0] | string",
        "tilde": "1 ~ none ~ true",
        "safe": "'<' | e ~ ('<' | safe)",
        "comparison": "1 < 2 and 'b' > 'a' and not none",
        "or-value": "'' or 'fallback'",
        "indent": "'a\nb' | indent(2)",
    }
    return [("{{ " + text + " }}", name, SHORT, {}) for name, text in expressions.items()]


def chat_cases():
    """Each case: a template's name or its text, the case's name, the messages, the arguments."""
    named = [*_chatml_cases(), *_header_cases(), *_alternating_cases(), *_language_cases()]
    return [(t, f"{t}/{name}", m, k) for t, name, m, k in named] + [
        (t, f"inline/{name}", m, k) for t, name, m, k in [*_inline_cases(), *_python_cases()]
    ]
