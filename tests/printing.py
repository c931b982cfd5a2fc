"""What a terminal of 100 columns shows of a renderable."""

import io

from rich.console import Console


def printed(renderable) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(renderable)
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    return text
