"""Tests the page in Chromium: it loads, streams, shows the engine at work, and is readable.

Run it with scripts/page_test, which installs what it needs.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

KEY = "page-test-key"
WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
SMALL = {"width": 360, "height": 640}
# Long enough for a busy machine; nothing is measured by it.
PATIENCE_MS = int(os.environ.get("PAGE_TEST_PATIENCE_MS", "60000"))
MAX_IMAGE_BYTES = 200_000
expect.set_options(timeout=PATIENCE_MS)


class Server:
    """A server of its own on a free port, with a pool small enough to run out of blocks."""

    def __init__(self, binary, num_blocks):
        command = [binary, "serve", "--port", "0", "--api-key", KEY]
        command += ["--num-blocks", str(num_blocks)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FOLIO_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines = []
        ready = threading.Event()
        threading.Thread(target=self.read, args=(ready,), daemon=True).start()
        if not ready.wait(120):
            self.stop()
            raise RuntimeError("the server did not start:\n" + "".join(self.lines))

    def read(self, ready):
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"Listening on (http://\S+)", line):
                self.url = found[1]
                ready.set()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Bench:
    """One tab after the other, each of which must stay without errors."""

    def __init__(self, browser, server, files=None):
        self.browser, self.server, self.files = browser, server, files

    def serve_from_disk(self, page):
        """Answers for the page's files in place of the program, which then needs no new build."""
        kinds = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
        kinds[".svg"] = "image/svg+xml"

        def answer(route):
            name = route.request.url.removeprefix(self.server.url).removeprefix("/page/")
            path = self.files / (name.strip("/").split("#")[0] or "index.html")
            route.fulfill(body=path.read_text(), content_type=kinds[path.suffix])

        page.route(re.compile(re.escape(self.server.url) + r"/(page/.*|#.*)?$"), answer)

    @contextlib.contextmanager
    def tab(self, hash="chat", viewport=WIDE, scheme="light", key=KEY, allowed=(), **options):
        context = self.browser.new_context(
            viewport=viewport, color_scheme=scheme, base_url=self.server.url,
            permissions=["clipboard-read", "clipboard-write"], **options,
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        errors = []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        if key:
            page.add_init_script(f"sessionStorage.setItem('folio-api-key', {json.dumps(key)})")
        if self.files:
            self.serve_from_disk(page)
        page.goto(f"/#{hash}" if hash else "/")
        try:
            yield page
            left = [e for e in errors if not any(text in e for text in allowed)]
            assert not left, f"errors in the console: {left}"
        except Exception:
            state = self.server.process.poll()
            said = "".join(self.server.lines[-5:])
            print(f"console: {errors}; exit status of the server: {state}\n{said}", flush=True)
            raise
        finally:
            context.close()


def ask(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answered(page, count=1):
    """The last answer, once it has ended."""
    expect(page.locator(".message.assistant[aria-busy=false]")).to_have_count(count)
    return page.locator(".message.assistant").last


def models_listed(page):
    expect(page.locator("#model option")).not_to_have_count(0)


def test_a_key_is_asked_for(bench):
    refused = ["401 (Unauthorized)"]
    with bench.tab(key=None, allowed=refused) as page:
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_be_visible()
        expect(dialog.get_by_role("alert")).to_contain_text("an API key is needed")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.get_by_role("alert")).to_contain_text("is not known")
        dialog.get_by_label("Key").fill(KEY)
        page.keyboard.press("Enter")
        models_listed(page)
        expect(dialog).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0


def test_an_answer_streams_and_the_conversation_is_kept(bench):
    with bench.tab() as page:
        models_listed(page)
        page.evaluate(
            """() => { window.sizes = []; new MutationObserver(() => sizes.push(
            document.querySelector('.assistant .said')?.textContent.length))
            .observe(document.getElementById('messages'), {subtree: true, childList: true}) }"""
        )
        ask(page, "Tell me a short story.")
        said = answered(page).locator(".said").inner_text()
        assert len(said) > 20, said
        assert len(set(page.evaluate("sizes"))) > 3, "the answer came in one piece"
        stats = page.locator(".stats").inner_text()
        expected = r"first token .* · .* tokens/s · .* prompt tokens.* · \d+ generated"
        assert re.search(expected, stats), stats
        expect(page.locator("#announcer")).to_contain_text(said[:20])
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "And then?")
        roles = [message["role"] for message in sent.value.post_data_json["messages"]]
        assert roles == ["user", "assistant", "user"], roles
        assert sent.value.post_data_json["messages"][1]["content"] == said
        answered(page, 2)
        page.get_by_role("button", name="Clear").click()
        expect(page.get_by_role("heading", name="Say something")).to_be_visible()


def test_tokens_show_their_alternatives(bench):
    with bench.tab() as page:
        models_listed(page)
        page.get_by_label("Token probabilities").check()
        ask(page, "Who are you?")
        answer = answered(page)
        tokens = answer.locator(".token:not(.unsaid)")
        assert tokens.count() > 3
        card = page.locator("#token-card")
        tokens.nth(1).hover()
        expect(card.locator("li")).to_have_count(5)
        expect(card.locator("li.chosen")).to_have_count(1)
        page.mouse.move(2, 2)
        tokens.first.focus()
        page.keyboard.press("ArrowRight")
        expect(tokens.nth(1)).to_be_focused()
        expect(card).to_be_visible()
        page.keyboard.press("Escape")
        expect(card).to_be_hidden()


def test_stop_ends_the_work(bench):
    with bench.tab() as page:
        models_listed(page)
        page.get_by_label("Other fields (JSON)").fill('{"ignore_eos": true, "n": 32}')
        ask(page, "Tell me a long story.")
        expect(page.locator(".assistant .said").first).not_to_be_empty()
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(answered(page).locator(".stats")).to_contain_text("stopped")
        page.get_by_role("tab", name="Engine").click()
        expect(page.locator("#tile-running")).to_have_text("0")


FIELDS = {
    "Temperature": ("temperature", "0.7", 0.7),
    "Top p": ("top_p", "0.9", 0.9),
    "Top k": ("top_k", "40", 40),
    "Min p": ("min_p", "0.05", 0.05),
    "Seed": ("seed", "7", 7),
    "Max tokens": ("max_tokens", "12", 12),
    "Choices (n)": ("n", "2", 2),
    "Frequency": ("frequency_penalty", "0.1", 0.1),
    "Presence": ("presence_penalty", "0.2", 0.2),
    "Repetition": ("repetition_penalty", "1.1", 1.1),
    "Stop strings": ("stop", "###\nend\\n", ["###", "end\n"]),
    "Logit bias": ("logit_bias", "5: -3.5", {"5": -3.5}),
    "Other fields (JSON)": ("min_tokens", '{"min_tokens": 2}', 2),
}


def test_every_control_reaches_the_api_and_the_command_line(bench):
    with bench.tab() as page:
        models_listed(page)
        settings = page.locator("#controls")
        settings.get_by_label("System prompt").fill("Be brief, don't ramble.")
        for label, (_, text, _) in FIELDS.items():
            settings.get_by_label(label, exact=True).fill(text)
        page.get_by_label("Message", exact=True).fill("It's a test")
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
        with page.expect_request("**/v1/chat/completions") as sent:
            page.keyboard.press("Tab")
            page.get_by_role("button", name="Send").click()
        body = sent.value.post_data_json
        for name, _, value in FIELDS.values():
            assert body[name] == value, (name, body.get(name))
        assert body["messages"][0] == {"role": "system", "content": "Be brief, don't ramble."}
        answered(page)
        expect(page.locator(".choice")).to_have_count(2)
        assert KEY not in command
        environment = {**os.environ, "FOLIO_API_KEY": KEY}
        done = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.rstrip().endswith("data: [DONE]"), done
        assert json.loads(command.split("-d '", 1)[1].rstrip("'").replace("'\\''", "'")) == body


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_shapes_and_tools(bench):
    with bench.tab() as page:
        models_listed(page)
        page.get_by_label("Response format").select_option("JSON schema")
        ask(page, "Who are you?")
        person = json.loads(answered(page).locator(".said").inner_text())
        assert set(person) == {"name", "age"}, person
        page.get_by_label("Response format").select_option("Text")
        page.get_by_label("Tools (JSON)").fill(json.dumps([WEATHER]))
        page.get_by_label("Other fields (JSON)").fill('{"tool_choice": "required"}')
        ask(page, "What is the weather in Rome?")
        answer = answered(page, 2)
        expect(answer.locator(".call-name")).to_have_text("get_weather")
        assert set(json.loads(answer.locator(".call code").inner_text())) == {"city"}
        page.get_by_label("Other fields (JSON)").fill("")
        answer.get_by_label("Result of get_weather").fill("sunny")
        with page.expect_request("**/v1/chat/completions") as sent:
            answer.get_by_role("button", name="Send results").click()
        roles = [message["role"] for message in sent.value.post_data_json["messages"]]
        assert roles[-2:] == ["assistant", "tool"], roles
        answered(page, 3)


def test_errors_are_shown_as_they_are(bench):
    refused = ["400 (Bad Request)"]
    with bench.tab(allowed=refused) as page:
        models_listed(page)
        page.get_by_label("Temperature").fill("3")
        ask(page, "Hello")
        problem = page.locator(".assistant .problem")
        expect(problem).to_contain_text("temperature")
        expect(problem).to_contain_text("HTTP 400 · code invalid_value · param temperature")
        page.get_by_label("Temperature").fill("")
        page.get_by_label("Tools (JSON)").fill("[")
        ask(page, "Hello")
        expect(page.locator("#form-problem")).to_contain_text("not JSON")
        expect(page.get_by_label("Tools (JSON)")).to_be_focused()
        page.get_by_label("Tools (JSON)").fill("")
        ask(page, "Hello")
        answered(page, 2)
        expect(page.locator("#form-problem")).to_have_count(0)


def test_embeddings_make_a_matrix(bench):
    with bench.tab("embeddings") as page:
        expect(page.locator("#embed-model option")).not_to_have_count(0)
        page.get_by_role("button", name="Compare").click()
        rows = page.locator(".matrix tbody tr")
        expect(rows).to_have_count(6)
        values = [[float(c) for c in row.locator("td").all_inner_texts()] for row in rows.all()]
        assert all(values[i][i] == 1.0 for i in range(6)), values
        assert all(values[i][j] == values[j][i] for i in range(6) for j in range(6)), values
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            weak = [ratio for ratio in page.evaluate(CELL_CONTRASTS) if ratio < 4.5]
            assert not weak, (scheme, weak)
        assert values[0][1] > values[0][3], "cat and kitten are closer than cat and account"
        expect(rows.first.get_by_role("rowheader")).to_contain_text("The cat sleeps")


def pixels(page):
    """How many colours the pool has, and all of it as text."""
    return page.evaluate(
        """() => { const c = document.getElementById('pool');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const words = new Uint32Array(d.buffer);
        return [new Set(words).size, words.reduce((h, w) => (h * 31 + w) >>> 0, 7)] }"""
    )


def wait_for(what, is_so):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def test_the_engine_is_seen_at_work(bench):
    with bench.tab("engine") as page:
        models_listed(page)
        expect(page.locator("#live-state")).to_have_text("Idle")
        idle = pixels(page)
        page.get_by_role("button", name="Start a load").click()
        expect(page.locator("#live-state")).to_have_text("Working")
        wait_for("colours in the pool", lambda: pixels(page)[0] > idle[0] + 3)
        first = pixels(page)
        wait_for("movement in the pool", lambda: pixels(page)[1] != first[1])
        expect(page.locator("#sequences tr").first).to_be_visible()
        wait_for("a rate", lambda: page.locator("#tile-generated").inner_text() not in ("–", "0"))
        hits = page.locator("#tile-hits")
        wait_for("prefix hits", lambda: hits.inner_text() not in ("–", "0 %"))
        expect(page.locator("#engine-events li[data-kind=lost]").first).to_be_visible()
        assert page.locator("#tile-preemptions").inner_text() != "0"
        for chart in ("Time to first token", "Time per output token"):
            value = page.locator(".chart", has_text=chart).locator(".chart-value")
            expect(value).to_have_text(re.compile(r"\d"))
        box = page.locator("#pool").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 9, box["y"] + 9)
        expect(page.locator("#pool-hover")).to_contain_text("Block ")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#live-state")).to_have_text("Paused")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("button", name="Stop the load").click()
        expect(page.locator("#live-state")).to_have_text("Idle")
        expect(page.locator("#tile-running")).to_have_text("0")


UNNAMED = """() => {
  const named = (node) => node.labels?.length || node.getAttribute('aria-label')
    || node.getAttribute('aria-labelledby') || node.textContent.trim();
  const nodes = document.querySelectorAll('button, input, select, textarea, canvas, [role=region]');
  return [...nodes].filter((node) => !named(node)).map((node) => node.outerHTML.slice(0, 80));
}"""

CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const luminance = (name) => {
    const hex = style.getPropertyValue(name).trim();
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const pairs = [['--text', '--bg'], ['--text', '--surface'], ['--muted', '--bg'],
    ['--muted', '--surface'], ['--muted', '--raised'], ['--accent', '--surface'],
    ['--accent', '--accent-soft'], ['--on-accent', '--accent'], ['--danger', '--danger-soft'],
    ['--text', '--accent-soft']];
  return pairs.map(([a, b]) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return [a, b, (high + 0.05) / (low + 0.05)];
  });
}"""


CELL_CONTRASTS = """() => {
  const luminance = (color) => {
    const [r, g, b] = color.startsWith('color')
      ? color.match(/[\\d.]+/g).slice(-3).map(Number)
      : color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
    const line = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * line(r) + 0.7152 * line(g) + 0.0722 * line(b);
  };
  return [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((strength) => {
    const cell = document.querySelector('.matrix tbody td:not(.same)');
    cell.dataset.strength = strength;
    const style = getComputedStyle(cell);
    const pair = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
}"""


def test_names_contrast_and_headings(bench):
    for scheme in ("light", "dark"):
        with bench.tab(scheme=scheme) as page:
            models_listed(page)
            assert page.evaluate(UNNAMED) == []
            weak = [pair for pair in page.evaluate(CONTRASTS) if pair[2] < 4.5]
            assert not weak, (scheme, weak)
            assert page.locator("h1").count() == 1
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
            assert len(ids) == len(set(ids)), "an id is used twice"


def test_the_keyboard_is_enough(bench):
    with bench.tab("") as page:
        models_listed(page)
        page.keyboard.press("Tab")
        expect(page.get_by_role("tab", name="Chat")).to_be_focused()
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus can be seen"
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tabpanel", name="Embeddings")).to_be_visible()
        page.keyboard.press("End")
        expect(page.get_by_role("tabpanel", name="Engine")).to_be_visible()
        assert page.url.endswith("#engine")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="Chat")).to_be_focused()
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.id"))
        controls = "key-open theme-toggle prompt send tint model temperature extra"
        for wanted in controls.split():
            assert wanted in seen, f"{wanted} cannot be reached by Tab"


def test_light_and_dark(bench):
    background = "getComputedStyle(document.body).backgroundColor"
    with bench.tab(scheme="dark") as page:
        dark = page.evaluate(background)
        page.get_by_role("button", name="Switch between light and dark").click()
        light = page.evaluate(background)
        assert light != dark
        page.reload()
        assert page.evaluate(background) == light, "the choice is kept"


def test_nothing_overflows_and_nothing_jumps(bench):
    shift = """() => new Promise((done) => { let sum = 0;
      new PerformanceObserver((list) => { for (const entry of list.getEntries())
        if (!entry.hadRecentInput) sum += entry.value; })
      .observe({type: 'layout-shift', buffered: true});
      requestAnimationFrame(() => setTimeout(() => done(sum), 300)) })"""
    for viewport in (SMALL, PHONE, WIDE):
        for view in ("chat", "embeddings", "engine"):
            with bench.tab(view, viewport=viewport) as page:
                models_listed(page)
                if view == "embeddings":
                    page.get_by_role("button", name="Compare").click()
                    expect(page.locator(".matrix")).to_be_visible()
                if view == "engine":
                    expect(page.locator("#tile-running")).to_have_text("0")
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{view} at {viewport}: {wide} pixels too wide"
                jump = page.evaluate(shift)
                assert jump < 0.05, f"{view} at {viewport}: a layout shift of {jump:.3f}"


def save(page, folder, name):
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    assert size < MAX_IMAGE_BYTES, f"{path} has {size} bytes"


def take_screenshots(bench, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, viewport, scheme in (
        ("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "dark")
    ):
        with bench.tab(viewport=viewport, scheme=scheme) as page:
            models_listed(page)
            page.locator("#seed").evaluate("(field) => { field.value = '4' }")
            page.get_by_label("Token probabilities").check()
            for turn, text in enumerate(("Who are you?", "Tell me a short story."), 1):
                ask(page, text)
                answered(page, turn)
            if viewport is WIDE:
                page.locator(".assistant").last.locator(".token[data-level='3']").first.hover()
            save(page, folder, f"page-chat-{name}")
        with bench.tab("embeddings", viewport=viewport, scheme=scheme) as page:
            expect(page.locator("#embed-model option")).not_to_have_count(0)
            page.get_by_role("button", name="Compare").click()
            expect(page.locator(".matrix")).to_be_visible()
            save(page, folder, f"page-embeddings-{name}")
        with bench.tab("engine", viewport=viewport, scheme=scheme) as page:
            models_listed(page)
            page.get_by_role("button", name="Start a load").click()
            expect(page.locator("#engine-events li").first).to_be_visible()
            page.wait_for_timeout(12_000)  # for charts with something in them
            save(page, folder, f"page-engine-{name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, help="the program to test")
    parser.add_argument("--num-blocks", type=int, default=200, help="blocks of its pool")
    parser.add_argument("--only", default="", help="part of the names of the tests to run")
    parser.add_argument("--files", type=Path, help="take the page's files from this directory")
    parser.add_argument("--screenshots", type=Path, help="take pictures into it instead")
    arguments = parser.parse_args()
    server = Server(arguments.server, arguments.num_blocks)
    num_failed = 0
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            bench = Bench(browser, server, arguments.files)
            if arguments.screenshots:
                return take_screenshots(bench, arguments.screenshots)
            tests = {name: f for name, f in globals().items() if name.startswith("test_")}
            chosen = {name: f for name, f in tests.items() if arguments.only in name}
            for name, test in chosen.items():
                try:
                    test(bench)
                    print(f"ok      {name}", flush=True)
                except Exception:
                    num_failed += 1
                    print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
            browser.close()
    finally:
        server.stop()
    print(f"{len(chosen) - num_failed} passed, {num_failed} failed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
