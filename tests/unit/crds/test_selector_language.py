"""Calico's selector language: what matches, how it prints, and what its errors say."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import BadObject
from crds.selector import Selector, parse_selector
from crds.selector_nodes import All, And, Compare, Expression, Global, Has, InSet, Not, Operator, Or

LABEL = st.text(alphabet="abzAZ019_./-", min_size=1, max_size=8)
VALUE = st.one_of(
    st.text(alphabet="ab '{}()!&|=,\\\t", max_size=6),
    st.text(alphabet='ab "{}()!&|=,', max_size=6),
)
LEAF: st.SearchStrategy[Expression] = st.one_of(
    st.just(All()),
    st.just(Global()),
    st.builds(Has, LABEL),
    st.builds(Compare, LABEL, st.sampled_from(Operator), VALUE),
    st.builds(InSet, LABEL, st.sets(VALUE, max_size=3).map(lambda values: tuple(sorted(values))), st.just("in")),
    st.builds(InSet, LABEL, st.sets(VALUE, max_size=3).map(lambda values: tuple(sorted(values))), st.just("not in")),
)


def _grown(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(inner.filter(lambda e: not isinstance(e, Not)).map(Not), several.map(And), several.map(Or))


EXPRESSION = st.recursive(LEAF, _grown, max_leaves=8)
LABELS = st.dictionaries(LABEL, VALUE, max_size=4)


@given(EXPRESSION)
def test_what_is_printed_parses_to_the_same_selector(expression: Expression) -> None:
    printed = Selector(expression).canonical
    again = parse_selector(printed)
    assert again == Selector(expression)
    assert again.canonical == printed


@given(EXPRESSION, LABELS)
def test_a_printed_selector_matches_the_same_labels(expression: Expression, labels: dict[str, str]) -> None:
    assert parse_selector(Selector(expression).canonical).matches(labels) == expression.matches(labels)


@given(EXPRESSION, LABELS, LABEL)
def test_only_the_labels_of_a_selector_matter(expression: Expression, labels: dict[str, str], other: str) -> None:
    selector = Selector(expression)
    seen = {name: value for name, value in labels.items() if name in selector.labels}
    assert selector.matches(labels) == selector.matches(seen)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_bad_object(text: str) -> None:
    with contextlib.suppress(BadObject):
        assert parse_selector(parse_selector(text).canonical) == parse_selector(text)


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("a == 'x'", False),
        ("a in {'x'}", False),
        ("a contains 'x'", False),
        ("a starts with ''", False),
        ("a ends with ''", False),
        ("has(a)", False),
        ("a != 'x'", True),
        ("a not in {'x'}", True),
        ("!has(a)", True),
        ("!(a == 'x')", True),
    ],
)
def test_an_absent_label_is_false_but_for_the_negative_tests(text: str, *, absent: bool) -> None:
    assert parse_selector(text).matches({"b": "x"}) is absent


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        (" \t", {}, True),
        ("all()", {}, True),
        ("all( )", {}, True),
        ("global()", {}, True),
        ("a == 'x' || b == 'y' && c == 'z'", {"a": "x"}, True),
        ("(a == 'x' || b == 'y') && c == 'z'", {"a": "x"}, False),
        ("a contains 'xy'", {"a": "middle"}, False),
        ("a contains 'dd'", {"a": "middle"}, True),
        ("a startswith 'mid'", {"a": "middle"}, True),
        ("a endswith 'dle'", {"a": "middle"}, True),
        ("a starts  with 'mid'", {"a": "middle"}, True),
        ("a notin{'x'}", {"a": "x"}, False),
        ("a in{}", {"a": "x"}, False),
        ("a in {'x',}", {"a": "x"}, True),
        ("in in {'x'}", {"in": "x"}, True),
        ("contains contains 'x'", {"contains": "x"}, True),
        ("!!!has( a )", {"a": ""}, False),
        ("!!has(a)", {"a": ""}, True),
    ],
)
def test_selectors_match_as_calicos_do(text: str, labels: dict[str, str], *, expected: bool) -> None:
    assert parse_selector(text).matches(labels) is expected


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", "all()"),
        ("a=='x'", 'a == "x"'),
        ("a=='\"'", "a == '\"'"),
        ("a in {'y', 'x', 'x'}", 'a in {"x", "y"}'),
        ("a=='x'&&has(b)||!c!='z'", '((a == "x" && has(b)) || !c != "z")'),
        ("((has(a)))", "has(a)"),
    ],
)
def test_the_canonical_text(text: str, canonical: str) -> None:
    assert parse_selector(text).canonical == canonical


def test_equal_selectors_share_a_calico_id() -> None:
    first, second = parse_selector("a=='x'"), parse_selector(' a  == "x" ')
    assert first.unique_id == second.unique_id
    assert len(first.unique_id) == 40
    assert first.unique_id.startswith("s:")
    assert parse_selector("a=='y'").unique_id != first.unique_id


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", "expected ==, !=, in, not in, contains, starts with or ends with after the label 'a', found the end"),
        ("a == b", "expected a quoted string, found 'b' at character 6"),
        ("has ( a )", "after the label 'has', found '(' at character 5"),
        ("has(a", "has( is not closed properly at character 1"),
        ("a = 'b'", "unexpected character '=' at character 3"),
        ("has(a) & has(b)", "unexpected character '&' at character 8"),
        ("has(a) | has(b)", "unexpected character '|' at character 8"),
        ("a == 'b", "a string that is never closed at character 6"),
        ("(has(a)", "expected ), found the end at character 8"),
        ("a in {'b'", "expected , or }, found the end"),
        ("a in {'b' 'c'}", "expected , or }, found \"'c'\""),
        ("a inf {'x'}", "found 'inf' at character 3"),
        ("has(a) has(b)", "expected &&, || or the end, found 'has(b)' at character 8"),
        ("has(a)\n", "unexpected character '\\n' at character 7"),
        ("x" * 513 + " == 'a'", "a label of more than 512 characters"),
        ("(" * 101 + "has(a)" + ")" * 101, "more than 100 nested parentheses at character 101"),
    ],
)
def test_an_error_says_what_and_where(text: str, problem: str) -> None:
    with pytest.raises(BadObject) as refusal:
        parse_selector(text, field="spec.nodeSelector")
    assert refusal.value.field == "spec.nodeSelector"
    assert problem in refusal.value.problem
