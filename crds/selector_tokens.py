"""Cuts a selector's text into tokens, with the position of each for error messages.

The quirks of Calico's tokenizer live here and nowhere else: only space and tab are white space; word operators
(`in`, `not in`, `contains`, ...) are recognised only right after a label, so labels may carry those names; the last
word of an operator must end at a character that cannot belong to a label (`in{` is fine, `inf` is not an operator);
`has(`, `all(` and `global(` must touch their parenthesis. Called by crds.selector alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

LABEL_MAX = 512


class SyntaxProblem(Exception):
    """What is wrong, and at which offset. Becomes BadObject in parse_selector."""

    def __init__(self, what: str, position: int) -> None:
        super().__init__(what)
        self.what = what
        self.position = position


class TokenKind(Enum):
    ALL = "all()"
    GLOBAL = "global()"
    HAS = "has()"
    LABEL = "label"
    STRING = "string"
    COMPARE = "comparison"
    IN = "in"
    NOT_IN = "not in"
    AND = "&&"
    OR = "||"
    NOT = "!"
    OPEN = "("
    CLOSE = ")"
    OPEN_SET = "{"
    CLOSE_SET = "}"
    COMMA = ","
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is the meaning (label, string's content, operator), `source` how it was written."""

    kind: TokenKind
    text: str
    position: int
    source: str


_BLANK = re.compile(r"[ \t]*")
_LABEL = re.compile(r"[A-Za-z0-9_./-]+")
_FUNCTION = re.compile(r"(all|global)\([ \t]*\)")
_HAS = re.compile(r"has\([ \t]*([A-Za-z0-9_./-]+)[ \t]*\)")
_STRING = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_END_OF_WORD = r"(?![A-Za-z0-9_./-])"
_WORD_OPERATORS = (
    (re.compile(r"not[ \t]*in" + _END_OF_WORD), TokenKind.NOT_IN, "not in"),
    (re.compile(r"in" + _END_OF_WORD), TokenKind.IN, "in"),
    (re.compile(r"contains" + _END_OF_WORD), TokenKind.COMPARE, "contains"),
    (re.compile(r"starts[ \t]*with" + _END_OF_WORD), TokenKind.COMPARE, "starts with"),
    (re.compile(r"ends[ \t]*with" + _END_OF_WORD), TokenKind.COMPARE, "ends with"),
)
_SYMBOLS = (
    ("==", TokenKind.COMPARE),
    ("!=", TokenKind.COMPARE),
    ("&&", TokenKind.AND),
    ("||", TokenKind.OR),
    ("!", TokenKind.NOT),
    ("(", TokenKind.OPEN),
    (")", TokenKind.CLOSE),
    ("{", TokenKind.OPEN_SET),
    ("}", TokenKind.CLOSE_SET),
    (",", TokenKind.COMMA),
)


def tokenize(text: str) -> list[Token]:
    """All tokens of `text`, the last one END."""
    tokens: list[Token] = []
    position = _skip_blank(text, 0)
    while position < len(text):
        after_label = bool(tokens) and tokens[-1].kind is TokenKind.LABEL
        token = (_word_operator(text, position) if after_label else None) or _token(text, position)
        tokens.append(token)
        position = _skip_blank(text, position + len(token.source))
    tokens.append(Token(TokenKind.END, "", len(text), ""))
    return tokens


def _skip_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _word_operator(text: str, position: int) -> Token | None:
    for pattern, kind, name in _WORD_OPERATORS:
        if found := pattern.match(text, position):
            return Token(kind, name, position, found[0])
    return None


def _token(text: str, position: int) -> Token:
    for symbol, kind in _SYMBOLS:
        if text.startswith(symbol, position):
            return Token(kind, symbol, position, symbol)
    if text[position] in "\"'":
        return _string(text, position)
    if found := _FUNCTION.match(text, position):
        return Token(TokenKind(f"{found[1]}()"), "", position, found[0])
    if found := _HAS.match(text, position):
        _check_length(found[1], position)
        return Token(TokenKind.HAS, found[1], position, found[0])
    if found := _LABEL.match(text, position):
        if text.startswith("(", found.end()) and found[0] in ("all", "global", "has"):
            raise SyntaxProblem(f"{found[0]}( is not closed properly", position)
        _check_length(found[0], position)
        return Token(TokenKind.LABEL, found[0], position, found[0])
    raise SyntaxProblem(f"unexpected character {text[position]!r}", position)


def _string(text: str, position: int) -> Token:
    found = _STRING.match(text, position)
    if found is None:
        raise SyntaxProblem("a string that is never closed", position)
    content = found[1] if found[1] is not None else found[2]
    return Token(TokenKind.STRING, content, position, found[0])


def _check_length(label: str, position: int) -> None:
    if len(label) > LABEL_MAX:
        raise SyntaxProblem(f"a label of more than {LABEL_MAX} characters", position)
