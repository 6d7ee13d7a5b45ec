"""Golden chats: what transformers' chat template machinery renders, or why it refuses."""

from datetime import datetime
from pathlib import Path

import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from lib.chat_cases import NOW, chat_cases
from lib.checkpoint import write_json

TEMPLATES = Path(__file__).resolve().parent / "chat_templates"


class FixedClock(datetime):
    """Stands in for `datetime` where templates ask for the time."""

    @classmethod
    def now(cls, tz=None):
        return datetime.fromisoformat(NOW)


def write_chats(path):
    """Renders every case and writes `path`; returns how many rendered and how many were refused."""
    chat_template_utils.datetime = FixedClock
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    rows = [_row(tokenizer, *case) for case in chat_cases()]
    assert len({row["name"] for row in rows}) == len(rows)
    write_json(path, rows)
    refused = sum("error" in row for row in rows)
    return len(rows) - refused, refused


def _row(tokenizer, template, name, messages, arguments):
    """One case with what came of it."""
    file = TEMPLATES / f"{template}.jinja"
    source = template if name.startswith("inline/") else file.read_text(encoding="utf-8")
    row = {"name": name, "template": source, "messages": messages, "kwargs": arguments}
    if "strftime_now" in source:
        row["now"] = NOW
    try:
        row["expected"] = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, **arguments
        )
    except jinja2.exceptions.TemplateError as error:
        kind = type(error).__name__
        by_template = kind == "TemplateError"
        row["error"] = {"kind": kind, "by_template": by_template, "message": str(error)}
    except (TypeError, ValueError, OverflowError, IndexError) as error:
        row["error"] = {"kind": type(error).__name__, "by_template": False, "message": str(error)}
    return row
