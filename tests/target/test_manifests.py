"""Objects out of paths, and YAML whose shape no text can change."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.target.manifests import assemble, dump, kustomization
from migrate.target.vocabulary import target

WRITES = [
    ("VirtualMachine.metadata.name", "web"),
    ("VirtualMachine.metadata.annotations[kubevirt-migrate/source]", "qemu://host/system"),
    ("VirtualMachine.spec.runStrategy", "Halted"),
    ("domain.devices.disks[vdb].name", "vdb"),
    ("domain.devices.disks[vdb].disk.bus", "virtio"),
    ("domain.devices.disks[vda].name", "vda"),
    ("domain.devices.disks[vdb].bootOrder", 1),
    ("domain.devices.interfaces[n].masquerade", {}),
    ("domain.features.acpi", {}),
    ("domain.features.acpi.enabled", True),
    ("nodeSelector[kubernetes.io/os]", "linux"),
    ("PersistentVolumeClaim[vda].metadata.name", "web-vda"),
    ("PersistentVolumeClaim[vda].spec.accessModes[0]", "ReadWriteOnce"),
    ("PersistentVolumeClaim[vda].spec.accessModes[1]", "ReadOnlyMany"),
    ("PersistentVolumeClaim[vda].spec.resources.requests.storage", "1Gi"),
    ("PersistentVolumeClaim[vdb].metadata.name", "web-vdb"),
    ("Secret[user].stringData[a.b]", "c"),
]


def test_assemble():
    assert assemble(WRITES) == {
        "VirtualMachine": [
            {
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "metadata": {"name": "web", "annotations": {"kubevirt-migrate/source": "qemu://host/system"}},
                "spec": {
                    "runStrategy": "Halted",
                    "template": {
                        "spec": {
                            "domain": {
                                "devices": {
                                    "disks": [
                                        {"name": "vdb", "disk": {"bus": "virtio"}, "bootOrder": 1},
                                        {"name": "vda"},
                                    ],
                                    "interfaces": [{"masquerade": {}}],
                                },
                                "features": {"acpi": {"enabled": True}},
                            },
                            "nodeSelector": {"kubernetes.io/os": "linux"},
                        }
                    },
                },
            }
        ],
        "PersistentVolumeClaim": [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "web-vda"},
                "spec": {
                    "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            },
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "web-vdb"}},
        ],
        "Secret": [{"apiVersion": "v1", "kind": "Secret", "stringData": {"a.b": "c"}}],
    }


def test_objects_do_not_share_values():
    shared = {}
    paths = ["domain.devices.interfaces[a].masquerade", "domain.devices.interfaces[b].masquerade"]
    (vm,) = assemble((path, shared) for path in paths)["VirtualMachine"]
    first, second = vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"]
    assert first["masquerade"] is not second["masquerade"] is not shared


def test_a_path_that_no_version_has_is_a_bug():
    with pytest.raises(ValueError, match=r"domain\.nope"):
        assemble([("domain.nope", 1)])


def test_a_value_without_a_form_is_a_bug():
    with pytest.raises(TypeError):
        dump([{"a": object()}])


def test_dump_is_what_people_write():
    vm, claim = {"kind": "A", "spec": {"a": [{"b": "c", "d": {}}, 1, []]}, "apiVersion": "v1"}, {"kind": "B"}
    assert dump([vm, claim]) == (
        "apiVersion: v1\nkind: A\nspec:\n  a:\n  - b: c\n    d: {}\n  - 1\n  - []\n---\nkind: B\n"
    )


def test_words_that_readers_of_yaml_take_for_something_else_are_quoted():
    for word in [
        "y",
        "n",
        "yes",
        "NO",
        "On",
        "off",
        "true",
        "False",
        "null",
        "~",
        "1e10",
        "12e4",
        "0x1",
        "1_000",
        "1:30",
        ".inf",
        "-1",
        "52:54:00:12:34:56",
        "=",
        "<<",
        "-",
    ]:
        assert dump([{"a": word}]) == f'a: "{word}"\n'
        assert dump([{word: "a"}]) == f'"{word}": a\n'
    for word in ["virtio", "q35", "kubevirt.io/v1", "ReadWriteOnce", "pc-q35-7.2", "e1000"]:
        assert dump([{"a": word}]) == f"a: {word}\n"


def test_hostile_text_stays_text():
    for text in [
        "a\nspec:\n  b: c",
        "---",
        "...",
        "{{ a }}",
        "*a",
        "&a b",
        "!!python/object",
        "# a",
        "a: b",
        " a ",
        "",
    ]:
        written = dump([{"a": text, "b": "c"}])
        assert yaml.safe_load(written) == {"a": text, "b": "c"}
        assert written.count("\n") == 2


def test_text_that_deceives_the_eye_is_spelled_out():
    assert dump([{"a": "a\u202eb\u200bc\x1b[2J"}]) == 'a: "a\\u202eb\\u200bc\\x1b[2J"\n'
    assert dump([{"a": "Bücher \U0001f4da"}]) == 'a: "Bücher \U0001f4da"\n'


HOSTILE = st.text() | st.sampled_from(
    ["---", "\n", "\r\n", "- ", "{{", "yes", "1e10", "\ufeff", "\x85", "\u2028", "😀"]
)
TEXT = st.lists(HOSTILE, max_size=4).map("".join)
VALUE = st.recursive(
    TEXT | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXT, VALUE, min_size=1))
def test_every_object_comes_back_as_it_was(manifest):
    written = dump([manifest, manifest])
    assert list(yaml.load_all(written, yaml.SafeLoader)) == [manifest, manifest]


def test_long_text_comes_back():
    manifest = {"a" * 100: "line one \t\x00\n" * 1000}
    assert yaml.safe_load(dump([manifest])) == manifest


def test_kustomization():
    assert yaml.safe_load(kustomization(["web/vm.yaml", "web/claims.yaml"])) == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["web/vm.yaml", "web/claims.yaml"],
    }


def test_what_is_assembled_is_valid():
    from migrate.target.vocabulary import strict

    claims = assemble(WRITES)["PersistentVolumeClaim"]
    assert strict(claims[0], target("1.9")) == []
