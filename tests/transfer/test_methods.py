"""What every transfer method has."""

import pytest

from migrate import transfer
from migrate.model import PlannedDisk, Refused

PATHS = {"cdi-import": "https://images.test/vm.iso"}


@pytest.mark.parametrize("name", transfer.methods())
def test_a_method_says_what_it_cannot_serve(name: str):
    method = transfer.method(name)
    path = PATHS.get(name, "/images/vm.qcow2")
    disk = PlannedDisk("vda", "default", "vm-vda", [name], path, "qcow2", 1 << 30, None, None, volume="lun-1")
    assert method.unfit(disk, None) is None
    disk.bytes = None
    assert "size" in method.unfit(disk, None)
    disk.path = None
    assert method.unfit(disk, None)
    for function in (method.move, method.present, method.check, method.discard):
        assert callable(function)
    assert transfer.name_of(method) == name


@pytest.mark.parametrize("name", ["_copy", "nothing", "../file", "cdi_upload", ""])
def test_other_names_are_refused(name: str):
    with pytest.raises(Refused, match="is no transfer method; use one of adopt, cdi-import"):
        transfer.method(name)


def test_the_first_method_that_serves_is_chosen():
    disk = PlannedDisk("vda", "default", "vm-vda", ["cdi-import", "file"], "/images/vm.raw", "raw", 512, None, None)
    assert transfer.chosen(disk, None, None) == (transfer.method("file"), None)
    assert transfer.chosen(disk, None, "the host is away") == (None, "the host is away")
    disk.path = "http://images.test/vm.raw"
    assert transfer.chosen(disk, None, "the host is away") == (transfer.method("cdi-import"), None)


def test_a_method_for_another_target_is_never_chosen():
    target = transfer.method("file").DirectoryTarget("/out")
    disk = PlannedDisk("vda", "default", "vm-vda", ["cdi-upload"], "/images/vm.raw", "raw", 512, None, None)
    method, reason = transfer.chosen(disk, target, None)
    assert method is None
    assert "cdi-upload" in reason and "methods" in reason
