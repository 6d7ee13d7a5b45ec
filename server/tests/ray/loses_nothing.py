"""Two workers answer a batch while servers, workers and the driver are killed: nothing is lost.

Usage: loses_nothing.py FOLIO_PROGRAM RAY_BATCH_SCRIPT DIRECTORY
Any broken expectation ends the script with a traceback.
"""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

folio, script, directory = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
NUM_REQUESTS = 240
# Marks the servers of this test among the processes of the machine; it changes no greedy answer.
MARK = str(os.getpid())
LIMIT_SECONDS = 120


def write_requests(path):
    with open(path, "w", encoding="utf-8") as file:
        for i in range(NUM_REQUESTS):
            chat = {
                "model": "folio-tiny",
                "messages": f"What is {i % 10} plus {i % 7}?",
                "max_tokens": 16,
                "temperature": 0,
            }
            embed = {"model": "folio-tiny-e5", "input": f"query: number {i}"}
            url, body = ("/v1/embeddings", embed) if i % 3 == 2 else ("/v1/chat/completions", chat)
            file.write(json.dumps({"custom_id": f"r{i}", "url": url, "body": body}) + "\n")


def start(requests, output):
    command = [sys.executable, script, requests, output, "--folio", folio, "--workers", "2"]
    command += ["--batch-size", "10", "--concurrency", "4", "--", "--seed", MARK]
    return subprocess.Popen(command, text=True, start_new_session=True)


def servers():
    """Ids of the servers of this test, with those of the workers that started them."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and MARK.encode() in words and b"--workers" not in words:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                found[int(entry.name)] = int(parent)
        except (OSError, IndexError):
            continue  # not a process, or no longer one
    return found


def wait_for(what, condition):
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {LIMIT_SECONDS} seconds"
        ended = driver.poll()
        assert ended in (None, -signal.SIGKILL), f"the driver ended with {ended} before {what}"
        time.sleep(0.05)


def wait_for_both():
    """Until both workers have a server. The one that is there waits for the other, or it might
    have done all the work before."""

    def both():
        found = servers()
        for pid in found:
            send(pid, signal.SIGSTOP if len(found) < 2 else signal.SIGCONT)
        return len(found) == 2

    wait_for("a server for each worker", both)


def send(pid, what):
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass  # it has just ended


def num_files(output):
    return len(list(output.glob("*.jsonl")))


def answers(output):
    """Every request exactly once, without errors."""
    lines = [json.loads(line) for path in output.glob("*.jsonl") for line in open(path)]
    counts = collections.Counter(line["custom_id"] for line in lines)
    assert len(counts) == NUM_REQUESTS and set(counts.values()) == {1}, counts.most_common(3)
    assert all(line["error"] is None for line in lines)
    assert all(line["response"]["status_code"] == 200 for line in lines)
    return {line["custom_id"]: content(line["response"]["body"]) for line in lines}


def content(body):
    if "choices" in body:
        return body["choices"][0]["message"]["content"]
    return body["data"][0]["embedding"]


requests = directory / "requests.jsonl"
write_requests(requests)

# A server is killed before it listens, one that answers, then a worker with its server.
output = directory / "killed-workers"
driver = start(requests, output)
wait_for("a server", servers)
os.kill(next(iter(servers())), signal.SIGKILL)
wait_for_both()
wait_for("the first answers", lambda: num_files(output) >= 2)
killed = next(iter(servers()))
os.kill(killed, signal.SIGKILL)
at_kill = num_files(output)
wait_for("the end of the killed server", lambda: killed not in servers())
wait_for_both()
wait_for("more answers", lambda: num_files(output) >= at_kill + 3)
server, worker = next(iter(servers().items()))
os.kill(worker, signal.SIGKILL)
wait_for("the end of the killed worker's server", lambda: server not in servers())
assert num_files(output) < NUM_REQUESTS // 10, "all was done before the worker was killed"
assert driver.wait(LIMIT_SECONDS) == 0
first = answers(output)

# The driver is killed; the same command goes on where it was.
output = directory / "killed-driver"
driver = start(requests, output)
wait_for("some answers", lambda: num_files(output) >= 4)
os.killpg(driver.pid, signal.SIGKILL)
driver.wait()
wait_for("the end of its servers", lambda: not servers())
before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.jsonl")}
assert 0 < len(before) < NUM_REQUESTS // 10, "all was done before the driver was killed"
assert start(requests, output).wait(LIMIT_SECONDS) == 0
after = {path.name: path.stat().st_mtime_ns for path in output.glob("*.jsonl")}
assert before.items() <= after.items(), "what was answered was answered again"
assert answers(output) == first, "an answer depends on what was killed"
print("ok: nothing lost")
