"""shoal schemas: the documents that describe the topics, from the installed package."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path

import click
import orjson

from ..ports import ConfigError
from .options import as_json

_FOLDER = Path(__file__).parent.parent / "schemas"


@click.command(short_help="the JSON Schemas and the AsyncAPI document of all topics")
@click.argument("name", required=False)
@as_json
def command(name: str | None, as_json: bool) -> None:
    """Print the document NAME, or list what there is.

    `asyncapi` describes all topics with keys, headers and clean-up; the others are the JSON Schemas it refers to.
    """
    documents = {path.stem: path for path in sorted(_FOLDER.glob("*.json"))}
    if name is not None:
        sys.stdout.write(_find(documents, name.removesuffix(".json")).read_text("utf-8"))
    elif as_json:
        found = [{"name": stem, "title": _title(path), "path": str(path)} for stem, path in documents.items()]
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        width = max(map(len, documents))
        for stem, path in documents.items():
            click.echo(f"{stem:{width}}  {_title(path)}")


def _find(documents: dict[str, Path], name: str) -> Path:
    if name not in documents:
        near = difflib.get_close_matches(name, documents, n=1)
        raise ConfigError(
            f"no document {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(documents)}")
        )
    return documents[name]


def _title(path: Path) -> str:
    document = json.loads(path.read_text("utf-8"))
    title: str = document.get("title") or document["info"]["title"]
    return title
