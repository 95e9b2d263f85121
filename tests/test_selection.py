from dataclasses import replace

import pytest

from migrate.model import VM, Refused, Skipped
from migrate.selection import Selection

UUID = "6ba410c5-1e5c-4d57-bee7-2228e7ffa32f"


def vm(name="web1", uuid=UUID, state="shut off"):
    return VM(name, uuid, "libvirt", "qemu://h/system", "qemu:///system", state=state)


@pytest.mark.parametrize(
    ("select", "exclude", "wanted"),
    [
        ([], [], True),
        (["web1"], [], True),
        (["web"], [], False),
        (["web*"], [], True),
        (["WEB*"], [], False),
        (["db*", "web[0-9]"], [], True),
        (["db*"], [], False),
        ([UUID], [], True),
        ([UUID.upper().replace("-", "")], [], True),
        ([UUID[:-1] + "0"], [], False),
        (["state=shut off"], [], True),
        (["state=shutoff"], [], True),
        (["state=running"], [], False),
        ([], ["web*"], False),
        (["web*"], ["state=shut-off"], False),
        (["web*"], ["db*"], True),
    ],
)
def test_a_vm_is_wanted_when_any_select_and_no_exclude_matches(select, exclude, wanted):
    assert Selection.parse(select, exclude).wants(vm()) is wanted


def test_a_vm_could_not_be_left_out_by_what_the_plan_calls_it():
    office = replace(vm("Office Win11"), folder="office-win11")
    assert not Selection.parse(exclude=["office-win11"]).wants(office)
    assert Selection.parse(["office-win11"]).wants(office)
    assert not Selection.parse(["office*"]).wants(office)


def test_what_could_not_be_read_is_meant_by_its_name_or_as_a_whole_host():
    unread = Skipped("bad", "qemu://h/system", "no")
    assert Selection.parse().may_mean(unread)
    assert Selection.parse(["b*"]).may_mean(unread)
    assert not Selection.parse(["web*"]).may_mean(unread)
    assert Selection.parse(["web*"]).may_mean(Skipped("qemu://h/system", "qemu://h/system", "no"))
    assert Selection.parse(["web*"]).may_mean(Skipped("/d/a.xml", "files:///d/a.xml", "no"))


def test_a_vm_whose_name_is_a_uuid_is_found_by_it():
    other = "aaaaaaaa-1e5c-4d57-bee7-2228e7ffa32f"
    assert Selection.parse([other]).wants(vm(name=other))


@pytest.mark.parametrize("expression", ["", "  ", "state=", "state=off", "colour=red", "=x", "web[1", "web[!"])
def test_a_malformed_expression_is_refused_in_one_line(expression):
    with pytest.raises(Refused) as refusal:
        Selection.parse([], [expression])
    assert "\n" not in str(refusal.value)
