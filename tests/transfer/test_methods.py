"""What every transfer method has."""

import pytest

from migrate import transfer
from migrate.model import PlannedDisk, Refused


@pytest.mark.parametrize("name", transfer.methods())
def test_a_method_says_what_it_cannot_serve(name: str):
    method = transfer.method(name)
    disk = PlannedDisk("vda", "default", "vm-vda", name, "/images/vm.qcow2", "qcow2", 1 << 30, None, None)
    assert method.unfit(disk, None) is None
    disk.bytes = None
    assert "size" in method.unfit(disk, None)
    disk.path = None
    assert method.unfit(disk, None)
    assert callable(method.move)


@pytest.mark.parametrize("name", ["_copy", "nothing", "../file", ""])
def test_other_names_are_refused(name: str):
    with pytest.raises(Refused, match="is no transfer method; use one of file"):
        transfer.method(name)
