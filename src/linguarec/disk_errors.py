"""Recognises a full disk in the errors of libraries that write files.

numpy counts bytes, safetensors quotes the system's error in its own, and torch says that a position is unexpected.
"""

import errno
import os
import re

# The disk or a quota is full, the process may not write so large a file, or the disk is read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_QUOTED = re.compile(r"\(os error (\d+)\)")  # of Rust, in errors of safetensors and tokenizers
_CUT_SHORT = re.compile(
    r"\d+ requested and \d+ written|PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error"
)


def disk_error(error: BaseException) -> OSError | None:
    """The error of a full or read-only disk that stands behind an error of a library; None = it is another error."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, OSError) and before.errno in FULL:
            return before
        if (found := _QUOTED.search(str(before))) and int(found[1]) in FULL:
            return OSError(int(found[1]), os.strerror(int(found[1])))
        before = before.__cause__ or before.__context__
    if isinstance(error, OSError | RuntimeError) and _CUT_SHORT.search(str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None
