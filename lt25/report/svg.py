"""Plots made part of the page: its fonts, its colours, and names that cannot clash."""

from __future__ import annotations

import re
from typing import cast

from markupsafe import Markup, escape

from lt25.evaluation.style import ACCENT, INK, SECOND, TEXT, THIRD

COLOURS = {INK: "--plot-ink", TEXT: "--ink", ACCENT: "--accent", SECOND: "--second", THIRD: "--third"}


def inline(svg: str, name: str, description: str) -> Markup:
    """An SVG file of `lt25.evaluation.style` as an element of the page.

    name: unique on the page; it goes before every id, since all plots share one document. description: for those who
    cannot see the picture. The colours become the page's variables, so that the plot follows light and dark.
    """
    body = svg[svg.index("<svg") :]
    size = cast(re.Match[str], re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body))
    width, height = (float(v) for v in size.groups())
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r">\s+<", "><", body)
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(description)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width * 1.4:.0f}px">{body}'
    )
