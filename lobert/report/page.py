"""One HTML file that needs nothing else: the assets of this package with the data inside."""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from lobert.report.series import BASELINE, DARK, LIGHT

SCRIPTS = ("draw.js", "pareto.js", "details.js", "curves.js", "table.js", "anatomy.js", "page.js")


def render_page(data: dict[str, Any]) -> str:
    """The page that shows `data`, as `payload` makes it.

    Its security policy lets it run its own script and load nothing at all; names in the data stay text.
    """
    style, script = _colours() + _asset("page.css"), _script()
    sources = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    page = _asset("page.html")
    for name, text in {"policy": sources, "style": style, "script": script, "data": embed(data)}.items():
        page = page.replace("{{" + name + "}}", text, 1)  # the data last: it may hold anything
    return page


def embed(data: Any) -> str:
    """JSON that no HTML parser can read anything else from, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate cannot be written


def _script() -> str:
    return '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"


def _asset(name: str) -> str:
    return (files("lobert.report") / "assets" / name).read_text(encoding="utf-8")


def _colours() -> str:
    """The colours of the series, light and dark, as variables."""
    light = "".join(f"--series-{name}: {colour}; " for name, colour in enumerate(LIGHT))
    dark = "".join(f"--series-{name}: {colour}; " for name, colour in enumerate(DARK))
    light, dark = f"{light}--series-baseline: {BASELINE[0]};", f"{dark}--series-baseline: {BASELINE[1]};"
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
