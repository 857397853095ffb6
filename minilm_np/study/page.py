"""The page of a trace: one HTML file without references to others, from the template and the scripts in assets/."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_np import model, ops
from minilm_np.util import cos_sim

if TYPE_CHECKING:
    from minilm_np.study.traces import Trace

ASSETS = files("minilm_np.study") / "assets"
SCRIPTS = ("d3/d3.min.js", "recompute.js", "page.js")
SHOWN: tuple[Callable[..., Any], ...] = (  # whose source the page shows
    ops.embed,
    ops.linear,
    ops.gelu,
    ops.gelu_new,
    ops.relu,
    ops.layer_norm,
    ops.add_layer_norm,
    ops.attention_scores,
    ops.softmax,
    ops.attention_weights,
    ops.attention,
    ops.pool,
    ops.l2_normalize,
    model.embeddings,
    model.self_attention,
    model.feed_forward,
    model.sentence_embeddings,
    cos_sim,
)


def needs_extra(name: str) -> ImportError:
    """Return the error for a missing package of the study extra."""
    return ImportError(f"{name} is needed for pages and not installed; install minilm-np[study]")


def require_extra() -> None:
    """Raise ImportError unless the study extra is installed."""
    for name in ("jinja2", "pygments"):
        if find_spec(name) is None:
            raise needs_extra(name)


def sources() -> list[dict[str, Any]]:
    """Return the functions that the page shows: name, file, first line, and the lines with colors as HTML."""
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer
    except ImportError as error:
        raise needs_extra("pygments") from error
    found = []
    for function in SHOWN:
        lines, first = inspect.getsourcelines(function)
        text = "".join(lines)
        found.append(
            {
                "name": function.__name__,
                "file": "minilm_np/"
                + Path(inspect.getfile(function)).relative_to(Path(ops.__file__).parent).as_posix(),
                "first": first,
                "last": first + len(lines) - 1,
                "html": highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)),
            }
        )
    return found


def environment() -> Any:
    """Return Jinja2 with escaping switched on. Raises ImportError without the study extra."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise needs_extra("jinja2") from error
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def json_in_html(value: Any) -> str:
    """Return JSON that can stand in a script element: no text of a user ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(trace: Trace) -> str:
    """Return the page. Raises ImportError without the study extra."""
    page = environment().from_string(asset("page.html.j2"))
    from markupsafe import Markup

    html: str = page.render(
        texts=trace.texts,
        config=trace.data["config"],
        backend={"numpy": "NumPy", "numba": "Numba"}[trace.data["backend"]],
        style=Markup(asset("page.css")),
        scripts=[Markup(asset(name)) for name in SCRIPTS],
        data=Markup(json_in_html(trace.data)),
        packed=trace.packed,
        sources=[{**source, "html": Markup(source["html"])} for source in sources()],
    )
    return html


def asset(name: str) -> str:
    """Return the text of a file in assets/."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")
