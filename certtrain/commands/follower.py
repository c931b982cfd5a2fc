"""What `commands.ranks` starts beside it: `python -m certtrain.commands.follower`.

It ends with its parent, from its first moment on: what it inherits keeps the run locked as long as it lives.
"""

from __future__ import annotations

import os
import sys
import threading

ORPHANED = 1


def _end_with_the_parent() -> None:
    sys.stdin.read()  # ends when the parent does
    os._exit(ORPHANED)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    from certtrain.commands.ranks import follow  # takes seconds

    sys.exit(follow())
