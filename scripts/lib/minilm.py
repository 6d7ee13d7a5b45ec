"""Golden values of all-MiniLM-L6-v2, a real model that scripts/fetch_minilm.sh fetches."""

import torch
from sentence_transformers import SentenceTransformer

from lib.checkpoint import write_rows

TEXTS = [
    "hello",
    "The quick brown fox jumps over the lazy dog.",
    "How many tokens fit into one block of the paged cache?",
    "A block of the cache holds the keys and values of sixteen tokens.",
    "Le café près du château est fermé; ça ira mieux à la forêt.",
    "Größenwahnsinnige Donaudampfschifffahrtsgesellschaftskapitäne in Köln",
    "Celebrate 🎉 with the family 👨‍👩‍👧 and 你好, 世界!",
    "  White   space,\ttabs\nand new lines   ",
    "E-mail: someone@example.org, price: $1,234.56 (-7.5%), see https://example.org/a_b?c=d#e",
    "Naïve cafe\u0301 — “quoted” … NO\u00a0BREAK and zero\u200bwidth",
    "Москва, Αθήνα, القاهرة, 東京, 서울",
    " ".join(f"Sentence {i} says that the queue is {i * 7 % 11} requests long." for i in range(15)),
]
MAX_BATCH_DIFFERENCE = 1e-5
"""How far an embedding from a padded batch may be from the one computed alone, in float32."""


def write_minilm(directory, path):
    """Writes the ids and embeddings of `TEXTS`, each computed alone, in float32."""
    if not (directory / "model.safetensors").exists():
        raise SystemExit(f"{directory} has no model.safetensors: run scripts/fetch_minilm.sh first")
    model = SentenceTransformer(
        str(directory),
        device="cpu",
        model_kwargs={"attn_implementation": "eager", "dtype": torch.float32},
    )
    rows, alone = [], []
    for text in TEXTS:
        ids = model.preprocess([text])["input_ids"][0].tolist()
        assert 2 < len(ids) < model.max_seq_length, (text, len(ids))
        vector = model.encode(text, convert_to_tensor=True)
        alone.append(vector)
        values = [float(f"{value:.8g}") for value in vector.tolist()]
        rows.append({"text": text, "ids": ids, "embedding": values})
    batch = model.encode(TEXTS, convert_to_tensor=True)
    difference = (batch - torch.stack(alone)).abs().max().item()
    assert difference < MAX_BATCH_DIFFERENCE, f"a batch moves an embedding by {difference}"
    expected = {
        "model": "all-MiniLM-L6-v2",
        "max_seq_length": model.max_seq_length,
        "pooling": "mean",
        "normalized": True,
        "texts": rows,
    }
    write_rows(path, expected)
    print(f"minilm: {len(rows)} texts, batch difference {difference:.1e}")
