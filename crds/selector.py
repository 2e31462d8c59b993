"""Calico's selector language: which labelled things an object speaks of.

    expr := and ('||' and)* ;  and := op ('&&' op)* ;  op := '!'* atom
    atom := all() | global() | has(label) | label == "v" | label != "v" | label in {"a", "b"} | label not in {...}
          | label contains "v" | label starts with "v" | label ends with "v" | '(' expr ')'

Theory: a text is cut into tokens (`crds.selector_tokens`), parsed by recursive descent into a tree of frozen values,
and evaluated against a mapping of labels. A label that is absent makes every test false, but for `!=` and `not in`,
which are true. `global()` evaluates to true; what it means comes from where it stands.

Invariants: `canonical` text parses back to an equal selector; two texts with one canonical text have one
`unique_id`, which is Calico's ("s:" and base64url of SHA-224), so that kernel set names can be compared.
Source: `libcalico-go/lib/selector` (grammar and quirks: whitespace is space and tab; `notin`, `startswith`,
`endswith` are words too; runs of `!` collapse by parity; sets are sorted and deduplicated).

Callers: crds.values (pools), bgp.sessions (peers), later felix.calc (policy).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from crds.errors import BadObject
from crds.selector_nodes import All, And, Compare, Expression, Global, Has, InSet, Not, Operator, Or
from crds.selector_tokens import SyntaxProblem, Token, TokenKind, tokenize

_MAX_DEPTH = 100
"""Nesting of parentheses; an API field of 1024 characters could otherwise exhaust Python's stack."""


@dataclass(frozen=True)
class Selector:
    """A parsed selector. Equal when canonically equal."""

    expression: Expression

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self.expression.matches(labels)

    @cached_property
    def canonical(self) -> str:
        """The one text that all spellings of this selector share."""
        return self.expression.text()

    @cached_property
    def unique_id(self) -> str:
        """Calico's identifier of this selector: "s:" and 38 URL-safe characters."""
        digest = hashlib.sha224(f"s:{self.canonical}".encode()).digest()
        return "s:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")

    @cached_property
    def labels(self) -> frozenset[str]:
        """Every label that this selector looks at: a change of any other label cannot change the answer."""
        return frozenset(self.expression.labels())

    def __str__(self) -> str:
        return self.canonical


@lru_cache(maxsize=4096)
def parse_selector(text: str, *, field: str = "selector") -> Selector:
    """The selector that `text` spells; empty or blank text is `all()`. Raises BadObject(field, ...) with position."""
    try:
        return Selector(_Parser(tokenize(text)).whole())
    except SyntaxProblem as problem:
        raise BadObject(field, f"{problem.what} at character {problem.position + 1} of {_shown(text)}") from None


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 120 else repr(text[:117] + "...")


class _Parser:
    """Recursive descent over the tokens; one method for each line of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        if self._peek().kind is TokenKind.END:
            return All()
        expression = self._either()
        if self._peek().kind is not TokenKind.END:
            raise self._unexpected("&&, || or the end")
        return expression

    def _either(self) -> Expression:
        operands = [self._both()]
        while self._accept(TokenKind.OR):
            operands.append(self._both())
        return Or(tuple(operands)) if len(operands) > 1 else operands[0]

    def _both(self) -> Expression:
        operands = [self._negatable()]
        while self._accept(TokenKind.AND):
            operands.append(self._negatable())
        return And(tuple(operands)) if len(operands) > 1 else operands[0]

    def _negatable(self) -> Expression:
        odd = False
        while self._accept(TokenKind.NOT):
            odd = not odd
        operand = self._atom()
        return Not(operand) if odd else operand

    def _atom(self) -> Expression:
        token = self._next()
        match token.kind:
            case TokenKind.ALL:
                return All()
            case TokenKind.GLOBAL:
                return Global()
            case TokenKind.HAS:
                return Has(token.text)
            case TokenKind.LABEL:
                return self._test_of(token.text)
            case TokenKind.OPEN:
                return self._group()
        self._at -= 1
        raise self._unexpected("a label, has(), all(), global(), ! or (")

    def _group(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SyntaxProblem(f"more than {_MAX_DEPTH} nested parentheses", self._tokens[self._at - 1].position)
        inner = self._either()
        self._depth -= 1
        self._expect(TokenKind.CLOSE, ")")
        return inner

    def _test_of(self, label: str) -> Expression:
        token = self._next()
        match token.kind:
            case TokenKind.IN:
                return InSet(label, self._set())
            case TokenKind.NOT_IN:
                return InSet(label, self._set(), operator="not in")
            case TokenKind.COMPARE:
                value = self._expect(TokenKind.STRING, "a quoted string")
                return Compare(label, Operator(token.text), value.text)
        self._at -= 1
        raise self._unexpected(f"==, !=, in, not in, contains, starts with or ends with after the label {label!r}")

    def _set(self) -> tuple[str, ...]:
        self._expect(TokenKind.OPEN_SET, "{")
        values: set[str] = set()
        while not self._accept(TokenKind.CLOSE_SET):
            values.add(self._expect(TokenKind.STRING, "a quoted string or }").text)
            if not self._accept(TokenKind.COMMA):
                self._expect(TokenKind.CLOSE_SET, ", or }")
                break
        return tuple(sorted(values))

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _accept(self, kind: TokenKind) -> bool:
        if self._peek().kind is not kind:
            return False
        self._at += 1
        return True

    def _expect(self, kind: TokenKind, described: str) -> Token:
        if self._peek().kind is not kind:
            raise self._unexpected(described)
        return self._next()

    def _unexpected(self, wanted: str) -> SyntaxProblem:
        token = self._peek()
        got = "the end" if token.kind is TokenKind.END else repr(token.source)
        return SyntaxProblem(f"expected {wanted}, found {got}", token.position)
