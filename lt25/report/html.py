"""Templates filled in, and figures as elements of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from lt25.evaluation import style
from lt25.report.svg import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fill(template: Path, **values: Any) -> Markup:
    """Fill in a jinja2 template; text is escaped, what is `Markup` is not.

    Raises:
        jinja2.UndefinedError: if the template uses a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return Markup(environment.get_template(template.name).render(values))


def draw(figure: Figure, name: str, description: str) -> Markup:
    """Return a figure as an element of the page. name: unique on the page; description: for those who cannot see it."""
    return inline(style.svg(figure), re.sub(r"\W", "-", name), description)
