"""The tree that a selector parses to. Frozen, hashable values that evaluate, print and list their labels.

The printed form is Calico's canonical text: double quotes unless the value contains one, And and Or always in
parentheses, sets sorted. Called by crds.selector; felix.calc may walk the tree to index label values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, assert_never


class Operator(Enum):
    EQUAL = "=="
    NOT_EQUAL = "!="
    CONTAINS = "contains"
    STARTS_WITH = "starts with"
    ENDS_WITH = "ends with"


@dataclass(frozen=True, slots=True)
class All:
    def matches(self, _labels: Mapping[str, str]) -> bool:
        return True

    def text(self) -> str:
        return "all()"

    def labels(self) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Global:
    """True wherever it stands; a policy's namespaceSelector gives it its meaning before it is evaluated."""

    def matches(self, _labels: Mapping[str, str]) -> bool:
        return True

    def text(self) -> str:
        return "global()"

    def labels(self) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True, slots=True)
class Has:
    label: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        return self.label in labels

    def text(self) -> str:
        return f"has({self.label})"

    def labels(self) -> Iterator[str]:
        yield self.label


@dataclass(frozen=True, slots=True)
class Compare:
    label: str
    operator: Operator
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        have = labels.get(self.label)
        match self.operator:
            case Operator.EQUAL:
                return have == self.value
            case Operator.NOT_EQUAL:
                return have != self.value
            case Operator.CONTAINS:
                return have is not None and self.value in have
            case Operator.STARTS_WITH:
                return have is not None and have.startswith(self.value)
            case Operator.ENDS_WITH:
                return have is not None and have.endswith(self.value)
        assert_never(self.operator)

    def text(self) -> str:
        return f"{self.label} {self.operator.value} {quoted(self.value)}"

    def labels(self) -> Iterator[str]:
        yield self.label


@dataclass(frozen=True, slots=True)
class InSet:
    """`values` is sorted and without doubles."""

    label: str
    values: tuple[str, ...]
    operator: Literal["in", "not in"] = "in"

    def matches(self, labels: Mapping[str, str]) -> bool:
        have = labels.get(self.label)
        if self.operator == "not in":
            return have is None or have not in self.values
        return have is not None and have in self.values

    def text(self) -> str:
        return f"{self.label} {self.operator} {{{', '.join(quoted(value) for value in self.values)}}}"

    def labels(self) -> Iterator[str]:
        yield self.label


@dataclass(frozen=True, slots=True)
class Not:
    operand: Expression

    def matches(self, labels: Mapping[str, str]) -> bool:
        return not self.operand.matches(labels)

    def text(self) -> str:
        return f"!{self.operand.text()}"

    def labels(self) -> Iterator[str]:
        return self.operand.labels()


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Expression, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(operand.matches(labels) for operand in self.operands)

    def text(self) -> str:
        return f"({' && '.join(operand.text() for operand in self.operands)})"

    def labels(self) -> Iterator[str]:
        for operand in self.operands:
            yield from operand.labels()


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Expression, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return any(operand.matches(labels) for operand in self.operands)

    def text(self) -> str:
        return f"({' || '.join(operand.text() for operand in self.operands)})"

    def labels(self) -> Iterator[str]:
        for operand in self.operands:
            yield from operand.labels()


Expression = All | Global | Has | Compare | InSet | Not | And | Or


def quoted(value: str) -> str:
    """The grammar has no escapes: a value holds single or double quotes, never both."""
    return f"'{value}'" if '"' in value else f'"{value}"'
