"""Files and functions stay as long as one can hold in mind, or say at their top why they are longer.

A file that must be longer has a comment `# Longer than 400 lines: <reason>` in its first ten lines; a function has
`# Longer than 60 lines: <reason>` in the line above it or in its body.
"""

from __future__ import annotations

import ast

from tests.architecture.sources import python_files, shown, tree

FILE_LINES = 400
FUNCTION_LINES = 60


def test_no_file_is_longer_than_it_may_be() -> None:
    too_long = []
    for path in python_files():
        lines = path.read_text().splitlines()
        if len(lines) > FILE_LINES and not any(f"# Longer than {FILE_LINES} lines:" in line for line in lines[:10]):
            too_long.append(f"{shown(path)}: {len(lines)} lines")
    assert not too_long


def test_no_function_is_longer_than_it_may_be() -> None:
    too_long = []
    for path in python_files():
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                around = lines[node.lineno - 2 : node.end_lineno]
                if length > FUNCTION_LINES and not any(f"# Longer than {FUNCTION_LINES} lines:" in x for x in around):
                    too_long.append(f"{shown(path, node.lineno)}: {node.name} has {length} lines")
    assert not too_long
