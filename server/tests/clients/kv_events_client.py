"""What a cache-aware router does: follows the KV-cache events of a running server, and repeats them.

Usage: kv_events_client.py BASE_URL API_KEY CHAT_MODEL EVENTS_ENDPOINT REPLAY_ENDPOINT
The types below are vLLM's, read by the library that vLLM writes them with. Any broken expectation
ends the script with a traceback.
"""

import sys
import time
from typing import Optional, Union

import msgspec
import openai
import zmq

base_url, api_key, model, events, replay = sys.argv[1:6]
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120)


class Event(msgspec.Struct, array_like=True, omit_defaults=True, tag=True):
    pass


class BlockStored(Event):
    block_hashes: list[int]
    parent_block_hash: Optional[int]
    token_ids: list[int]
    block_size: int
    lora_id: Optional[int]
    medium: Optional[str] = None


class BlockRemoved(Event):
    block_hashes: list[int]
    medium: Optional[str] = None


class AllBlocksCleared(Event):
    pass


class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    events: list[Union[BlockStored, BlockRemoved, AllBlocksCleared]]
    data_parallel_rank: Optional[int] = None


context = zmq.Context()
subscriber = context.socket(zmq.SUB)
subscriber.connect(events)
subscriber.setsockopt_string(zmq.SUBSCRIBE, "kv@")
subscriber.RCVTIMEO = 20_000
decoder = msgspec.msgpack.Decoder(Batch)


def complete(prompt, **settings):
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=1, temperature=0, extra_body=settings
    )
    return answer.usage


def wait_until_connected():
    """A subscription takes its time to arrive: events before it are not ours."""
    subscriber.RCVTIMEO = 200
    for start in range(100):
        complete([start] * 64)
        try:
            return subscriber.recv_multipart()
        except zmq.Again:
            continue
    raise AssertionError("no event has come")


class Index:
    """Whole prefixes by hash."""

    def __init__(self):
        self.prefixes = {}

    def follow(self, batch):
        for event in batch.events:
            if isinstance(event, BlockStored):
                prefix = self.prefixes.get(event.parent_block_hash, [])
                assert len(event.token_ids) == len(event.block_hashes) * event.block_size, event
                for i, block_hash in enumerate(event.block_hashes):
                    size = event.block_size
                    prefix = prefix + event.token_ids[i * size : (i + 1) * size]
                    self.prefixes[block_hash] = prefix
            elif isinstance(event, BlockRemoved):
                for block_hash in event.block_hashes:
                    self.prefixes.pop(block_hash, None)
            else:
                self.prefixes.clear()

    def match(self, tokens):
        """Tokens of the longest known prefix, as a router would compute it."""
        known = {tuple(prefix) for prefix in self.prefixes.values()}
        return max((len(p) for p in known if tuple(tokens[: len(p)]) == p), default=0)


topic, first, _ = wait_until_connected()
assert topic == b"kv@test", topic
subscriber.RCVTIMEO = 20_000
index, last = Index(), int.from_bytes(first, "big")
received = {}


def receive_until(condition):
    global last
    while not condition():
        topic, number, payload = subscriber.recv_multipart()
        number = int.from_bytes(number, "big")
        assert number == last + 1, f"{number} after {last}"
        last = number
        received[number] = payload
        batch = decoder.decode(payload)
        assert abs(batch.ts - time.time()) < 60, batch.ts
        index.follow(batch)


prompt = [7 + i % 50 for i in range(200)]
complete(prompt)
receive_until(lambda: index.match(prompt) == 192)
# What the events promise, the server keeps.
assert complete(prompt + [3]).prompt_tokens_details.cached_tokens == 192
# A longer prompt adds to what is known, under the same parents.
longer = prompt + [60] * 100
complete(longer)
receive_until(lambda: index.match(longer) == 288)
# What is under a salt is nobody else's business.
complete([80] * 100, cache_salt="mine")
complete([81] * 100)
receive_until(lambda: index.match([81] * 100) == 96)
assert index.match([80] * 100) == 0
# Much else evicts the least recently used.
for start in range(40):
    complete([100 + start] * 400)
receive_until(lambda: index.match([139] * 400) == 400)
assert index.match(prompt) < 192, "nothing was evicted"

asker = context.socket(zmq.DEALER)
asker.connect(replay)
asker.RCVTIMEO = 20_000
start = min(received)
asker.send_multipart([b"", start.to_bytes(8, "big")])
repeated = {}
while True:
    _, number, payload = asker.recv_multipart()
    number = int.from_bytes(number, "big", signed=True)
    if number == -1:
        break
    repeated[number] = payload
assert {n: p for n, p in repeated.items() if n in received} == received, "a replay differs"
print("ok: KV-cache events")
