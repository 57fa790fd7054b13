"""What users read is in plain American English: errors, log lines, `--help`, settings, all docs."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from multimodal_embedding_serving import errors
from multimodal_embedding_serving.api import errors as api_errors
from tests.test_house import ROOT, SOURCE, files, place, report

ADVICE = "name the value, what is accepted and the setting, with the verbs of the trade"

BRITISH_STEMS = (
    "anonym author capital categor custom emphas final general initial local material maxim memor "
    "minim normal optim organ parallel prior quant random real recogn serial special stabil "
    "standard summar synchron token util vector visual"
)
OLD = {
    # The vocabulary of the translation.
    r"told": "reported, set, given",
    r"tells?|telling": "reports, shows, says",
    r"anew": "again, from scratch",
    r"films?(?!\.mp4)": "video",
    r"pictures?": "image",
    r"(?<!there )(?:is|are) no(?! longer\b| more\b)": "is not a, has no",
    r"may (?:not )?stand": "is (not) compatible",
    r"is heard|are heard": "is read, is received",
    r"the words": "the text",
    r"(?<!connection )(?:is|are|was|were|be) refused": "is rejected, is not allowed",
    r"be had": "is not available",
    r"(?:device|engine|graph|model|replica) broke": "failed",
    r"for want of": "not enough",
    r"certif(?:y|ies|ied|icates?)": "accuracy check, accuracy report",
    r"shelf|shelves": "model store, model directory",
    r"parcels?": "archive",
    r"express": "interactive replica",
    # British spellings.
    rf"\w*(?:{'|'.join(BRITISH_STEMS.split())})is(?:e[drs]?|ers|ing|ations?|able)": "-ize",
    r"analyse[dr]?|analysing": "-yze",
    r"\w*(?:arm|behavi|col|endeav|fav|harb|hon|lab|neighb|rum)our\w*": "-or",
    r"grey\w*|licence[ds]?|catalogues?|artefacts?|defences?|whilst|(?:milli)?metres?|fibres?": (
        "gray, license, catalog, artifact, defense, while, meter, fiber"
    ),
    r"(?:cent|theat)(?:re|res|red)": "center, theater",
    r"(?:cancel|label|model|signal|total|travel)l(?:ed|ing)": "canceled, labeled, modeled",
}
PATTERNS = {
    re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE): advice
    for pattern, advice in OLD.items()
}
TLS = re.compile(r"\b(?:TLS|SSL|HTTPS|PEM)\b")
"""A message about one of these may name a certificate."""

LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log", "warn"}
LOGGERS = {"log", "logger", "logging", "warnings"}
SHOWN_ARGUMENTS = {"help", "short_help", "epilog", "summary", "description"}
ERRORS = {
    name
    for module in (errors, api_errors)
    for name, each in vars(module).items()
    if inspect.isclass(each) and issubclass(each, errors.EmbeddingError)
}
OLD_SENTENCES = (
    "this is no image",
    "the model was told to stop; a film is a picture",
    "the express graph is opened anew",
    "vectors that may stand in one index",
    "its certificate is on the shelf",
    "the file is refused",
    "normalised, colourful and quantised by neighbouring licences",
    "an unrecognised format",
)
GOOD_SENTENCES = (
    "there is no file x.jpg; the model is no longer loaded",
    "connection refused; 'film.mp4' has no audio; EMBEDDING_EXPRESS_MB, unrecognised_media",
    "could not read the TLS certificate",
    "raise, promise, precise, otherwise, exercise, noise, four hours, your tour, expression",
    "normalize, optimizer, realistic, generalist, tokenizer, color, analysis, license, center",
)


def test_messages_are_in_plain_american_english() -> None:
    hits = [
        f"{place(path, text.line)} {word!r} ({advice}) in {text.value!r}"
        for path in files("src")
        for text in shown_strings(path)
        for word, advice in old_words(text.value)
    ]
    assert not hits, report(ADVICE, hits)


def test_the_documentation_is_in_plain_american_english() -> None:
    pages = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
    hits = [
        f"{page.relative_to(ROOT)} {word!r} ({advice}) in {line.strip()!r}"
        for page in pages
        for line in prose(page).splitlines()
        for word, advice in old_words(line)
    ]
    assert len(pages) > 20
    assert not hits, report(ADVICE, hits)


def prose(page: Path) -> str:
    """A page without its code and the addresses of its links."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", text)


def test_the_vocabulary_finds_the_old_words_and_no_others() -> None:
    assert all(list(old_words(each)) for each in OLD_SENTENCES)
    assert not [word for each in GOOD_SENTENCES for word in old_words(each)]


def room(path: Path) -> str:
    return Path(path.relative_to(SOURCE).parts[0]).stem


def old_words(text: str) -> Iterator[tuple[str, str]]:
    """The old words in a text, each with what to write instead."""
    for pattern, advice in PATTERNS.items():
        for match in pattern.finditer(text):
            if not (match[0].lower().startswith("certif") and TLS.search(text)):
                yield match[0], advice


class Text(NamedTuple):
    """A string literal and its line."""

    line: int
    value: str


class Shown(ast.NodeVisitor):
    """Collects the string literals of a module that a user may see."""

    def __init__(self) -> None:
        self.nodes: list[ast.AST] = []
        self.names: set[str] = set()
        """Variables in messages; their literals count too: `message = …; raise X(message)`."""
        self.values: dict[str, list[ast.expr]] = defaultdict(list)

    def add(self, node: ast.AST) -> None:
        self.nodes.append(node)
        self.names.update(each.id for each in ast.walk(node) if isinstance(each, ast.Name))

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.add(node.exc)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if is_log_call(node) or name_of(node.func) in ERRORS | {"echo", "env"}:
            self.add(node)
        for keyword in node.keywords:
            if keyword.arg in SHOWN_ARGUMENTS:
                self.add(keyword.value)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.values[target.id].append(node.value)
        self.generic_visit(node)


def is_log_call(node: ast.Call) -> bool:
    function = node.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LOG_METHODS
        and name_of(function.value).lstrip("_") in LOGGERS
    )


def name_of(node: ast.expr) -> str:
    """`X` of X and of module.X; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def shown_strings(path: Path) -> list[Text]:
    """String literals of messages, help and settings; docstrings of commands and error classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = Shown()
    shown.visit(tree)
    texts = {text for node in shown.nodes for text in literals(node)}
    for name in shown.names:
        for value in shown.values[name]:
            texts |= {text for text in literals(value) if " " in text.value}
    if path.name == "errors.py" or room(path) == "cli":
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                texts |= set(literals(node.body[0]))
    return sorted(texts)


def literals(node: ast.AST) -> Iterator[Text]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield Text(each.lineno, each.value)
