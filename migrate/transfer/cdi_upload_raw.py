"""Method `cdi-upload-raw`: as `cdi-upload`, but the bytes of the disk travel as they are, which CDI need not convert.

They are more than a qcow2 of the data alone, and CDI's scratch space stays empty.
"""

from __future__ import annotations

from functools import partial

from migrate.transfer import cdi_upload
from migrate.transfer.cdi_upload import OPENS, TARGET, check, discard, present, unfit

__all__ = ["OPENS", "TARGET", "check", "discard", "move", "present", "unfit"]

move = partial(cdi_upload.move, raw=True)
