#!/usr/bin/env python3
"""Answers a file of requests on many machines: Ray Data maps it over one Folio a node.

    ray_batch.py requests.jsonl answers/ --workers 4 -- --model /models/Qwen3-0.6B

The input is OpenAI's batch format, one request a line:

    {"custom_id": "1", "url": "/v1/chat/completions", "body": {"model": "folio-tiny", "messages": [...]}}

and so is each line of the files that appear in the output directory, which all nodes must see (a
shared file system, or a URI that pyarrow can write to, such as s3://bucket/path). What follows
`--` goes to `folio serve` on each node.

Run it again after any failure: requests that have an answer are left out. A batch of answers
becomes a file in one move, under a name made of its requests, so that a batch which is computed
twice is still there once. A Folio that dies is started again, a worker that dies is replaced by
Ray, and what they had in hand is computed again.
"""

import argparse
import collections
import concurrent.futures
import ctypes
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
# Statuses after which the same request may succeed.
TRANSIENT = (429, 500, 502, 503, 504)
MAX_WAIT_SECONDS = 60
MAX_STARTS = 3


class Server:
    """A `folio serve` of this process: started on first use, and again after it has died."""

    def __init__(self, command):
        self.command = command
        self.lock = threading.Lock()
        self.process = None
        self.url = None

    def address(self):
        """Its URL, once it listens."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            return self.url

    def start(self):
        """Starts it, and again if a signal ends it before it listens: that is not its own doing."""
        code = -1
        for _ in range(MAX_STARTS):
            started = threading.Event()
            threading.Thread(target=self.keep, args=(started,), daemon=True).start()
            started.wait()
            if self.url is not None:
                return
            code = self.process.wait() if self.process else "no such program"
            if not isinstance(code, int) or code >= 0:
                break
        raise RuntimeError(f"{' '.join(self.command)} ended with {code} before it listened")

    def keep(self, started):
        """Starts the program and reads what it prints. The kernel ends the program with the thread
        that started it, so this one lives as long as the program does."""
        self.process = self.url = None
        try:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent
            )
            for line in self.process.stdout:
                if self.url is None and "Listening on " in line:
                    self.url = line.split("Listening on ")[1].split()[0]
                    started.set()
        finally:
            started.set()

    def stop(self):
        if self.process is not None:
            self.process.terminate()


def end_with_parent():
    """PR_SET_PDEATHSIG: a worker that is killed must not leave its server behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Worker:
    """Answers batches of requests with a Folio of its own."""

    def __init__(self, command, output, settings):
        self.server = Server(command)
        self.output = output
        self.settings = settings
        self.threads = concurrent.futures.ThreadPoolExecutor(settings["concurrency"])
        self.sessions = threading.local()
        self.server.address()

    def __call__(self, batch):
        lines = [str(line) for line in batch["line"]]
        requests = [json.loads(line) for line in lines]
        answers = list(self.threads.map(self.answer, requests))
        write(self.output, name_of(requests), answers)
        failed = sum(answer["error"] is not None for answer in answers)
        return {"answered": [len(answers) - failed], "failed": [failed]}

    def answer(self, request):
        last = "not tried"
        for attempt in range(self.settings["attempts"]):
            try:
                response = self.post(request)
            except Exception as error:  # the server died, or does not start
                last = f"{type(error).__name__}: {error}"
                time.sleep(min(2**attempt, MAX_WAIT_SECONDS))
                continue
            if response.status_code not in TRANSIENT:
                return result(request, response=response)
            last = f"status {response.status_code}: {response.text[:500]}"
            wait = response.headers.get("retry-after", "")
            wait = float(wait) if wait.isdigit() else 2**attempt
            time.sleep(min(wait, MAX_WAIT_SECONDS))
        return result(request, error=last)

    def post(self, request):
        import requests

        if not hasattr(self.sessions, "session"):
            self.sessions.session = requests.Session()
        url = self.server.address() + request["url"]
        return self.sessions.session.post(
            url, json=request["body"], timeout=self.settings["timeout"]
        )


def result(request, response=None, error=None):
    """A line of output. A refusal, such as a status of 400, is an answer too: it will not change."""
    if response is not None:
        response = {
            "status_code": response.status_code,
            "request_id": response.headers.get("x-request-id", ""),
            "body": response.json(),
        }
    error = error and {"code": "failed", "message": error}
    return {"custom_id": request["custom_id"], "response": response, "error": error}


def name_of(requests):
    ids = "\n".join(sorted(request["custom_id"] for request in requests))
    return hashlib.sha256(ids.encode()).hexdigest()[:32] + ".jsonl"


def file_system(output):
    """Where the answers go, by pyarrow: a path or a URI."""
    import os

    from pyarrow import fs

    if "://" in output:
        return fs.FileSystem.from_uri(output)
    return fs.LocalFileSystem(), os.path.abspath(output)


def write(output, name, answers):
    files, directory = file_system(output)
    # Under a name of its own until it is whole: two workers may hold the same batch.
    partial = f"{directory}/{name}.{time.time_ns()}.partial"
    with files.open_output_stream(partial) as stream:
        for answer in answers:
            stream.write((json.dumps(answer, ensure_ascii=False) + "\n").encode())
    files.move(partial, f"{directory}/{name}")


def read_answers(output):
    """The ids that have an answer, and those that failed and have none."""
    from pyarrow import fs

    files, directory = file_system(output)
    files.create_dir(directory, recursive=True)
    answered, failed = set(), set()
    for info in files.get_file_info(fs.FileSelector(directory)):
        if not info.path.endswith(".jsonl"):
            continue
        with files.open_input_stream(info.path) as stream:
            for line in stream.read().decode().splitlines():
                answer = json.loads(line)
                kind = failed if answer["error"] is not None else answered
                kind.add(answer["custom_id"])
    return answered, failed - answered


def read_requests(path):
    """The lines of the input, by id. The first bad one ends the program with its number."""
    lines = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                request_id = checked(json.loads(line))
                if request_id in lines:
                    raise ValueError(f"custom_id {request_id!r} is there twice")
            except ValueError as error:
                sys.exit(f"{path}, line {number}: {error}")
            lines[request_id] = line.strip()
    return lines


def checked(request):
    """The id of a request that can be sent."""
    if not isinstance(request, dict):
        raise ValueError("a request must be an object")
    request_id, url, body = (request.get(key) for key in ("custom_id", "url", "body"))
    if not isinstance(request_id, str) or not request_id:
        raise ValueError(f"custom_id = {request_id!r} must be a text that is not empty")
    if url not in URLS:
        raise ValueError(f"url = {url!r} must be one of {', '.join(URLS)}")
    if not isinstance(body, dict):
        raise ValueError("body must be an object")
    if body.get("stream"):
        raise ValueError("body.stream must not be true: answers are stored whole")
    return request_id


def read_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="What follows -- goes to folio serve."
    )
    parser.add_argument("input", help="file of requests, one JSON object a line")
    parser.add_argument("output", help="directory for the answers, seen by all nodes")
    parser.add_argument("--folio", default="folio", help="the program on each node [%(default)s]")
    parser.add_argument("--address", help="Ray cluster to use [default: a local one]")
    parser.add_argument("--workers", type=int, help="servers [default: one for each node]")
    parser.add_argument("--cpus", type=float, help="CPUs of a worker [default: its share]")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a worker [%(default)s]")
    for flag, kind, default, what in [
        ("--batch-size", int, 256, "requests that become one file"),
        ("--concurrency", int, 64, "requests that a server has at a time"),
        ("--attempts", int, 8, "tries of a request"),
        ("--timeout", float, 3600, "seconds for one try"),
    ]:
        parser.add_argument(flag, type=kind, default=default, help=f"{what} [{default}]")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_args(given[:end])
    arguments.serve = given[end + 1 :]
    return arguments


def main():
    arguments = read_arguments()
    lines = read_requests(arguments.input)
    answered, _ = read_answers(arguments.output)
    pending = [line for request_id, line in lines.items() if request_id not in answered]
    print(f"{len(lines)} requests, {len(lines) - len(pending)} answered before", flush=True)
    if pending:
        run(arguments, pending)
    answered, failed = read_answers(arguments.output)
    missing = lines.keys() - answered
    print(f"{len(lines) - len(missing)} answered, {len(missing)} not: {arguments.output}")
    for request_id in sorted(missing & failed)[:5]:
        print(f"failed: {request_id}", file=sys.stderr)
    sys.exit(1 if missing else 0)


def run(arguments, pending):
    import ray
    import ray.data

    ray.init(address=arguments.address, log_to_driver=False, include_dashboard=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    num_workers = arguments.workers or len(nodes)
    cpus = arguments.cpus
    if cpus is None:
        # One CPU in all is left to the tasks that read and hand out the requests.
        total = ray.cluster_resources().get("CPU", 1)
        cpus = max((total - 1) / num_workers, 0.5)
    command = [arguments.folio, "serve", "--port", "0", *arguments.serve]
    settings = {name: getattr(arguments, name) for name in ("concurrency", "attempts", "timeout")}
    num_blocks = -(-len(pending) // arguments.batch_size)
    data = ray.data.from_items([{"line": line} for line in pending], override_num_blocks=num_blocks)
    done = data.map_batches(
        Worker,
        fn_constructor_args=(command, arguments.output, settings),
        batch_size=arguments.batch_size,
        compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=arguments.gpus,
    )
    totals = collections.Counter()
    for row in done.iter_rows():
        totals.update({name: int(row[name]) for name in ("answered", "failed")})
        print(f"{sum(totals.values())} of {len(pending)} done", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
