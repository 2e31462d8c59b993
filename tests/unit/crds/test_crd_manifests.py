"""The committed manifests are what the Python definitions say, and the generator notices when they are not."""

from __future__ import annotations

from pathlib import Path

import yaml

from crds.definitions import DEFINITIONS
from crds.generate import MANIFESTS, differences, main, rendered, write


def test_the_committed_files_are_the_generated_ones() -> None:
    assert differences(MANIFESTS) == [], "run `python -m crds.generate`"
    assert main(["--check"]) == 0


def test_stale_missing_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path)
    assert differences(tmp_path) == []
    pools = tmp_path / "projectcalico.org_ippools.yaml"
    pools.write_text(pools.read_text() + "\n# edited\n")
    (tmp_path / "projectcalico.org_bgppeers.yaml").unlink()
    (tmp_path / "other.yaml").write_text("{}")
    assert differences(tmp_path) == [
        "projectcalico.org_bgppeers.yaml is missing",
        "projectcalico.org_ippools.yaml differs",
        "other.yaml belongs to no kind",
    ]
    write(tmp_path)
    assert differences(tmp_path) == []


def test_an_unknown_argument_writes_nothing() -> None:
    assert main(["--help-me"]) == 2


def test_every_kind_is_cluster_wide_in_calicos_group() -> None:
    for text in rendered().values():
        crd = yaml.safe_load(text)
        assert crd["spec"]["group"] == "projectcalico.org"
        assert crd["spec"]["scope"] == "Cluster"
        assert [version["name"] for version in crd["spec"]["versions"]] == ["v3"]
    assert len(rendered()) == len(DEFINITIONS) == len({definition.kind.plural for definition in DEFINITIONS})


def test_every_rule_has_a_sentence() -> None:
    def rules(schema: object) -> list[dict[str, str]]:
        if isinstance(schema, dict):
            own = schema.get("x-kubernetes-validations", [])
            return [*own, *(rule for value in schema.values() for rule in rules(value))]
        if isinstance(schema, list):
            return [rule for value in schema for rule in rules(value)]
        return []

    for definition in DEFINITIONS:
        for rule in rules(definition.schema()):
            assert rule["message"], rule
            assert "\n" not in rule["message"]


def test_every_field_is_described() -> None:
    def undescribed(schema: dict[str, object], at: str) -> list[str]:
        found = [] if schema.get("description") else [at]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            found += [line for name, below in properties.items() for line in undescribed(below, f"{at}.{name}")]
        for inner in ("items", "additionalProperties"):
            below = schema.get(inner)
            if isinstance(below, dict):
                found += undescribed(below, f"{at}[]")
        return found

    for definition in DEFINITIONS:
        assert undescribed(definition.spec, definition.kind.kind) == []
