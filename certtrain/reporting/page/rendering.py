"""The page's templates: HTML is written there, and nowhere else."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from certtrain.system import escape

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, /, **values: Any) -> str:
    """The text of `templates/NAME` with the values, every one of which is escaped.

    What would steer the reader's program is made visible at the end: no template or filter can be passed by it.

    Raises:
        jinja2.UndefinedError: a value that the template names is missing.
    """
    return escape.terminal(environment().get_template(name).render(values))


@cache
def environment() -> Environment:
    """The templates of the page: every value escaped, a missing one an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("certtrain.reporting.page")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
