"""Whole domains and all that becomes of them; `pytest --accept` writes what is new, never what the schema lacks."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from migrate import pipeline, site
from migrate.mapping import rule_files
from migrate.model import VM, Disk, Translation
from migrate.target import manifests
from migrate.target.vocabulary import strict, target

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*.xml"))
GIB = 2**30
RULES, SITE = rule_files.load(), site.load(HERE / "site.yaml")


def translated(path: Path) -> Translation:
    """The case as a libvirt host would give it, shut off, each disk of a size that follows from its place."""
    xml = path.read_bytes()
    count = xml.count(b"<disk ")
    names = [part.split(b"'")[1].decode() for part in xml.split(b"<target dev=")[1 : count + 1]]
    disks = [
        Disk(name, path=f"/vm/{name}", format="raw", capacity=(index + 1) * GIB, allocation=index * GIB)
        for index, name in enumerate(names)
    ]
    vm = VM(path.stem, "u", "libvirt", "qemu://h/system", "qemu:///system", "h", path.stem, "shut off", disks=disks)
    vm.xml = xml
    return pipeline.translate(vm, RULES, target("1.9"), SITE)


def told(translation: Translation) -> str:
    """Everything that a reader of the plan is told, a line each, after the objects."""
    lines = [f"# {translation.verdict}"]
    lines += [
        f"# {item.severity} {item.id} {item.path or item.target}: {item.because}" for item in translation.all_findings()
    ]
    lines += [f"# gain {gain.path} = {gain.value}" for gain in translation.gains]
    return manifests.dump([translation.manifest, *translation.claims]) + "\n".join(lines) + "\n"


def test_a_translation_is_no_circle_that_the_collector_has_to_free() -> None:
    for path in CASES:
        translated(path)
    gc.collect()
    gc.disable()
    try:
        for path in CASES:
            translated(path)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_domain_becomes_what_was_accepted(path: Path, request: pytest.FixtureRequest) -> None:
    translation = translated(path)
    for manifest in (translation.manifest, *translation.claims):
        assert not strict(manifest, target("1.9"))
    golden = path.with_suffix(".yaml")
    if request.config.getoption("accept"):
        golden.write_text(told(translation))
    assert golden.read_text() == told(translation)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_nothing_of_a_golden_domain_is_unknown(path: Path) -> None:
    assert not [entry.path for entry in translated(path).entries if entry.rule == "unknown"]
