"""Whether a regular expression of a tokenizer.json takes time in proportion to the text.

The library's engine (Oniguruma) backtracks: `(a+)+b` takes exponential, and `a+b` quadratic time
for a long text of a's, on a thread that nothing can stop. So an expression is only used if each of
its alternatives decides with a bounded number of steps, and whatever repeats without a bound comes
last, where it can't fail: then every character is looked at a bounded number of times.
"""

from __future__ import annotations

import re

MAX_PATTERN = 4096
"""Characters."""
MAX_REPEATS = 64
"""Of a repetition that has a bound."""

MAX_WAYS = 256
"""In which a part of a bounded length can match at one position."""
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = tuple(
    rf"[^\r\n\p{{L}}\p{{N}}]?{letters}{_ENDING}"
    for letters in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
)
_SPACES, _SPACES_BUT_ONE = r"\s+", r"\s+(?!\S)"
LINEAR_IF_FOLLOWED_BY = {
    r"\s*[\r\n]+": (_SPACES, _SPACES_BUT_ONE),
    r"\s*[\r\n]": (_SPACES, _SPACES_BUT_ONE),
    _CASED[0]: (_CASED[1],),
}
"""Alternatives of cl100k and o200k (and so of Qwen, Llama, …) that give up after a long run, which
the next alternative then consumes."""

_ATOM = re.compile(
    r"\\[pP]\{\^?\w+\}|\\x\{[0-9A-Fa-f]+\}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}"
    r"|\\[sSdDwWhHrntfve]|\\[^0-9A-Za-z]|[^\\\[\](){}|*+?^$]"
)
"""One character of the text; no anchor and no reference to a group."""
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\})[?+]?")
_GROUP = re.compile(r"\((?:\?i?:)?(?!\?)")


class UnboundedPattern(ValueError):
    """Says what about a pattern may take more than linear time."""


def check_pattern(pattern: str) -> int:
    """The least number of characters that a linear pattern matches. Raises UnboundedPattern."""
    if len(pattern) > MAX_PATTERN:
        raise UnboundedPattern(f"it has more than {MAX_PATTERN} characters")
    alternatives = _split(pattern)
    shortest = min(
        1 if _is_published(*pair) else _check_alternative(pair[0])
        for pair in zip(alternatives, [*alternatives[1:], ""], strict=True)
    )
    if not shortest:
        raise UnboundedPattern("it matches nothing at all at every position")
    return shortest


def _is_published(alternative: str, following: str) -> bool:
    """Whether an alternative is linear for a reason that the rule does not cover."""
    return alternative == _SPACES_BUT_ONE or following in LINEAR_IF_FOLLOWED_BY.get(alternative, ())


def _split(pattern: str) -> list[str]:
    """The alternatives of a pattern: its parts between bars outside of groups and classes."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(pattern):
        match pattern[place]:
            case "\\":
                place += 1
            case "[":
                place = _end_of_class(pattern, place) - 1
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "|" if not depth:
                parts.append(pattern[start:place])
                start = place + 1
        place += 1
    return [*parts, pattern[start:]]


def _end_of_class(pattern: str, start: int) -> int:
    """The place after a class in brackets, which may hold others."""
    depth, place = 0, start
    while place < len(pattern):
        match pattern[place]:
            case "\\":
                place += 1
            case "[":
                depth += 1
            case "]" if place > start + 1 and pattern[start + 1 : place] != "^":
                depth -= 1
                if not depth:
                    return place + 1
        place += 1
    raise UnboundedPattern("a class in brackets does not end")


def _check_alternative(pattern: str) -> int:
    """The least number of characters that one alternative matches."""
    place, least, ways, open_ended = 0, 0, 1, False
    while place < len(pattern):
        end, inner = _end_of_atom(pattern, place)
        quantifier = _QUANTIFIER.match(pattern, end)
        low, high = _repeats(quantifier)
        if open_ended and low:
            raise UnboundedPattern("something must follow a repetition that has no bound")
        if inner is not None and (high != 1 or "*" in inner or "+" in inner or "," in inner):
            raise UnboundedPattern("a group repeats, or something in it does")
        parts = [] if inner is None else _split(inner)
        least += low * min((_check_alternative(each) for each in parts), default=1)
        ways *= max(1, len(parts)) * (1 if high is None else high - low + 1)
        if ways > MAX_WAYS:
            raise UnboundedPattern(f"it can match in more than {MAX_WAYS} ways at one position")
        open_ended |= high is None
        place = quantifier.end() if quantifier else end
    return least


def _end_of_atom(pattern: str, place: int) -> tuple[int, str | None]:
    """Where an atom ends, and what is inside of it if it is a group."""
    if pattern[place] == "[":
        return _end_of_class(pattern, place), None
    if group := _GROUP.match(pattern, place):
        depth, end = 1, group.end()
        while depth and end < len(pattern):
            if pattern[end] == "[":
                end = _end_of_class(pattern, end)
                continue
            depth += {"(": 1, ")": -1}.get(pattern[end], 0)
            end += 2 if pattern[end] == "\\" else 1
        if not depth:
            return end, pattern[group.end() : end - 1]
    elif atom := _ATOM.match(pattern, place):
        return atom.end(), None
    raise UnboundedPattern(f"{pattern[place : place + 12]!r} is not a character, class or group")


def _repeats(quantifier: re.Match[str] | None) -> tuple[int, int | None]:
    """Least and greatest number of repetitions; None: no bound."""
    if quantifier is None:
        return 1, 1
    match quantifier[0][0]:
        case "*":
            return 0, None
        case "+":
            return 1, None
        case "?":
            return 0, 1
    low = int(quantifier["low"] or 0)
    high = int(quantifier["high"]) if quantifier["high"] else None if quantifier["comma"] else low
    if max(low, high or 0) > MAX_REPEATS:
        raise UnboundedPattern(f"something repeats more than {MAX_REPEATS} times")
    return low, high
