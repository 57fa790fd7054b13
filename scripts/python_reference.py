"""The parts of docs/python-reference.md: signatures and docstrings of the public names.

A public method or class without a docstring ends the generation, so that the page is complete.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, ForwardRef

from multimodal_embedding_serving import compat
from multimodal_embedding_serving.bulk.arrow import EmbeddedTables, embed_folder, embed_table
from multimodal_embedding_serving.client import AsyncClient, Client
from multimodal_embedding_serving.compat.rows import Rows
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.sdk.embedder import AsyncEmbedder, Embedder
from multimodal_embedding_serving.sdk.results import (
    Classification,
    ItemFailure,
    PartialResult,
    Ranked,
    VideoFrame,
    VideoVectors,
)
from multimodal_embedding_serving.sdk.scorer import AsyncScorer, Scorer
from multimodal_embedding_serving.settings import Settings
from scripts.tables import code, table

MAX_LINE = 88
INTERNAL = {"check_in_background", "embed_inputs", "reopen", "run"}
"""Methods of `Engine` for the rest of the package."""
MODULE = re.compile(
    r"multimodal_embedding_serving(\.\w+)+\.|collections\.abc\.|numpy\.|typing\.|pathlib\."
)


def shared_methods() -> str:
    return _methods(Embedder, "") + _methods(Scorer, "")


def engine() -> str:
    verbs = _methods(AsyncEmbedder, "Engine.") + _methods(AsyncScorer, "Engine.")
    return _class(Engine) + verbs + _class(ModelInfo)


def settings() -> str:
    rows = ([code(each.name), code(each.metadata["names"][0])] for each in fields(Settings))
    return table(["argument", "setting"], rows)


def clients() -> str:
    return _class(Client) + _class(AsyncClient)


def results() -> str:
    of_vectors = (VideoVectors, VideoFrame, PartialResult, ItemFailure)
    return "".join(map(_class, (*of_vectors, Classification, Ranked)))


def tables() -> str:
    return _function(embed_folder) + _function(embed_table) + _class(EmbeddedTables)


def intel_sdk() -> str:
    values = [getattr(compat, name) for name in compat.__all__]
    functions = [each for each in values if inspect.isfunction(each)]
    classes = [each for each in values if inspect.isclass(each)]
    rows = f"### Rows\n\n{_prose(Rows, 'Rows')}"  # its many methods are those of a tensor
    return "".join(map(_function, functions)) + "".join(map(_class, classes)) + rows


def _class(value: type) -> str:
    parts = [f"### {value.__name__}\n\n"]
    if "__init__" in vars(value) and not is_dataclass(value) and value is not Engine:
        parts.append(_fence(_signature(value.__name__, value.__init__)))  # type: ignore[misc]
    parts.append(_prose(value, value.__name__))
    parts.append(_fields(value))
    if not _field_names(value):
        parts.append(_methods(value, f"{value.__name__}."))
    return "".join(parts)


def _methods(value: type, prefix: str) -> str:
    return "".join(
        _function(member, prefix, is_property) for member, is_property in _public_members(value)
    )


def _public_members(value: type) -> Iterator[tuple[Callable[..., Any], bool]]:
    """The functions and properties that the class itself defines, in the order of its source."""
    for name, member in vars(value).items():
        if name.startswith("_") or name in INTERNAL:
            continue
        if isinstance(member, property) and member.fget:
            yield member.fget, True
        elif isinstance(member, classmethod | staticmethod):
            yield member.__func__, False
        elif inspect.isfunction(member):
            yield member, False


def _function(value: Callable[..., Any], prefix: str = "", is_property: bool = False) -> str:
    name = f"{prefix}{value.__name__}"
    signature = _type(inspect.signature(value).return_annotation)
    shown = f"{name}: {signature}" if is_property else _signature(name, value)
    return f"{'####' if prefix else '###'} {name}\n\n{_fence(shown)}{_prose(value, name)}"


def _signature(name: str, value: Callable[..., Any]) -> str:
    signature = inspect.signature(value)
    parameters = [
        each for each in signature.parameters.values() if each.name not in ("self", "cls")
    ]
    result = _type(signature.return_annotation)
    arrow = f" -> {result}" if (result and not name[0].isupper()) or "." in name else ""
    word = "async " if inspect.iscoroutinefunction(inspect.unwrap(value)) else ""
    head, parts = f"{word}{name}", list(_parameters(parameters))
    line = f"{head}({', '.join(parts)}){arrow}"
    if len(line) <= MAX_LINE:
        return line
    return f"{head}(\n" + "".join(f"    {each},\n" for each in parts) + f"){arrow}"


def _parameters(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    keyword_only = False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(each.kind.name, "")
        keyword_only |= stars == "*"
        kind = _type(each.annotation)
        default = "" if each.default is each.empty else f" = {_default(each.default)}"
        yield f"{stars}{each.name}{f': {kind}' if kind else ''}{default}"


def _default(value: Any) -> str:
    return value.__name__ if callable(value) else repr(value)


def _type(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return MODULE.sub("", text)


def _field_names(value: type) -> list[str]:
    if is_dataclass(value):
        return [each.name for each in fields(value)]
    return list(getattr(value, "_fields", ()))


def _fields(value: type) -> str:
    """The fields of a dataclass or named tuple; the string below a field describes it."""
    names = _field_names(value)
    if not names:
        return ""
    described = _described_fields(inspect.getsource(value))
    rows = (
        [code(name), code(_cell(_type(value.__annotations__[name]))), described.get(name, "")]
        for name in names
    )
    return table(["field", "type", ""], rows) + "\n"


def _described_fields(source: str) -> dict[str, str]:
    pattern = re.compile(r'^    (\w+): [^\n]+\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
    return {name: _cell(" ".join(text.split())) for name, text in pattern.findall(source)}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(value: Any, name: str) -> str:
    text = inspect.getdoc(value) if not is_dataclass(value) else value.__doc__
    if not text or text.startswith(f"{name}("):
        raise SystemExit(f"scripts/python_reference.py: {name} is public and has no docstring")
    return inspect.cleandoc(text).replace("->", "→") + "\n\n"


def _fence(text: str) -> str:
    return f"```text\n{text}\n```\n\n"
