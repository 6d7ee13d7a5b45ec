#!/usr/bin/env python3
"""Holds structured answers of a running server against the schemas that they were asked for.

    scripts/check_structured.py http://127.0.0.1:8000/v1 [MODEL] [--key KEY] [--tokens 400]

Asks for every schema of tests/structured/corpus.json, greedy and sampled, whole and streamed, in
chats and completions, and validates with the package jsonschema. An answer that was cut off must be
the beginning of a JSON text. Prints one line and exits 0 if all is well.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema

CORPUS = Path(__file__).parent.parent / "tests/structured/corpus.json"


def post(url, body, key):
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read().decode()}\n{json.dumps(body)}")


def answers(url, body, key):
    """(text, finish reason) of each choice, from a whole answer or a stream."""
    path = "/chat/completions" if "messages" in body else "/completions"
    raw = post(url + path, body, key)
    if not body.get("stream"):
        choices = json.loads(raw)["choices"]
        return [(c.get("text", c.get("message", {}).get("content")), c["finish_reason"]) for c in choices]
    texts, reasons = {}, {}
    events = [line[6:] for line in raw.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    for event in events[:-1]:
        for choice in json.loads(event)["choices"]:
            index = choice["index"]
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            texts[index] = texts.get(index, "") + text
            reasons[index] = choice["finish_reason"] or reasons.get(index)
    return [(texts[index], reasons[index]) for index in sorted(texts)]


def completions_of(prefix):
    """Texts that go on from `prefix`, one of which is JSON if `prefix` is the beginning of any."""
    closers, in_string, is_escaped = [], False, False
    for char in prefix:
        if in_string:
            if is_escaped:
                is_escaped = False
            elif char == "\\":
                is_escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            closers.append("]" if char == "[" else "}")
        elif char in "]}":
            if not closers:
                return []
            closers.pop()
    tail = "".join(reversed(closers))
    if in_string:
        hexes = ["", "0", "00", "000", "0000", "n", "u0000"]
        ends = ['"', '":0']
        return [prefix + h + e + tail for h in hexes for e in ends]
    ends = ["", "0", ":0", '"a":0', "0:0", "null", "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l", "[]"]
    return [prefix + end + tail for end in ends]


def is_beginning(text):
    def parses(candidate):
        try:
            json.loads(candidate)
            return True
        except ValueError:
            return False

    return any(map(parses, completions_of(text)))


def check(case, text, reason):
    if reason == "length":
        if case["finite"]:
            return f"cut off: {text!r}"
        return None if is_beginning(text) else f"not the beginning of JSON: {text!r}"
    if reason != "stop":
        return f"ended by {reason}"
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"{error}: {text!r}"
    validator = jsonschema.validators.validator_for(case["schema"], default=jsonschema.Draft202012Validator)
    try:
        validator(case["schema"]).validate(value)
    except jsonschema.ValidationError as error:
        return f"{error.message}: {text!r}"
    return None


def asks(case, model, max_tokens):
    shape = {"type": "json_schema", "json_schema": {"name": "case", "strict": True, "schema": case["schema"]}}
    base = {"model": model, "max_tokens": max_tokens, "response_format": shape}
    chat = {"messages": f"Give me JSON: {case['name']}"}
    yield {**base, **chat, "temperature": 0}
    yield {**base, **chat, "n": 2, "seed": 7, "stream": True}
    yield {**base, "prompt": "JSON:", "temperature": 1.5, "seed": 3}
    yield {**base, **chat, "max_tokens": 5, "seed": 1}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model", nargs="?", default="folio-tiny")
    parser.add_argument("--key")
    parser.add_argument("--tokens", type=int, default=400)
    args = parser.parse_args()
    corpus = json.loads(CORPUS.read_text())
    work = [(case, body) for case in corpus for body in asks(case, args.model, args.tokens)]

    def run(item):
        case, body = item
        found = []
        for text, reason in answers(args.url, body, args.key):
            of_case = case if body["max_tokens"] > 5 else {**case, "finite": False}
            problem = check(of_case, text, reason)
            found.append((reason, problem and f"{case['name']}: {problem}"))
        return found

    with ThreadPoolExecutor(8) as pool:
        found = [one for results in pool.map(run, work) for one in results]
    problems = [problem for _, problem in found if problem]
    if problems:
        sys.exit("\n".join(problems))
    num_whole = sum(reason == "stop" for reason, _ in found)
    print(f"ok: {len(corpus)} schemas, {len(found)} answers, {num_whole} whole and valid, "
          f"{len(found) - num_whole} cut off and the beginning of JSON")


if __name__ == "__main__":
    main()
