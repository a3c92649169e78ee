"""Matplotlib figures as inline SVG that follows the style of the page around it.

A figure is drawn in placeholder colours, one for each CSS variable in `TOKENS`. Afterwards its `style`
attributes become presentation attributes and the placeholders become `var(--token)`: the figure then follows the
page's light and dark colours, and a Content-Security-Policy that allows one hashed style block allows the figure
too. Text stays text, in the page's font.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: The CSS variables a figure may use; `templates/report.css` gives each a light and a dark value.
TOKENS = (
    *("ink", "muted", "line", "kept"),
    *("i1", "i2", "i3", "i4", "i5"),  # reasons at ingest
    *("f1", "f2", "f3", "f4", "f5"),  # reasons at a filter
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),  # sources and mixtures
)


MARKERS: tuple[Literal["o", "s", "^", "D", "v", "P", "X", "p"], ...] = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "p",
)


_PLACEHOLDERS = {f"#0000{number:02x}": f"var(--{token})" for number, token in enumerate(TOKENS, start=1)}


_PRESENTATION = frozenset(
    ("fill", "stroke", "opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight")
) | frozenset(f"stroke-{part}" for part in ("width", "dasharray", "dashoffset", "linecap", "linejoin", "miterlimit"))


_NAMESPACE = re.compile(r"^\{[^}]*\}")


_REFERENCE_ATTRIBUTES = ("href", "clip-path")


def placeholder_colour(token: str) -> str:
    """The placeholder colour of a CSS variable; raises ValueError for a name that is not in `TOKENS`."""
    return f"#0000{TOKENS.index(token) + 1:02x}"


def series_token(position: int) -> str:
    """The colour of the mixture or source at this position, counted from 0; they repeat after 8."""
    return f"m{position % 8 + 1}"


def marker(position: int) -> Literal["o", "s", "^", "D", "v", "P", "X", "p"]:
    """The marker of the mixture at this position, counted from 0; they repeat after 8."""
    return MARKERS[position % len(MARKERS)]


def shorten(text: str, limit: int = 18) -> str:
    """The text on one line of at most `limit` characters, for a figure beside a table that shows it in full."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def draw_svg(
    name: str,
    title: str,
    size: tuple[float, float],
    margins: tuple[float, float, float, float],
    onto: Callable[[Axes], None],
) -> Markup:
    """One figure as inline SVG, the same bytes for the same input.

    `name` is unique on the page: ids are prefixed with it. `size` is width and height, `margins` are left,
    right, top and bottom, all in CSS pixels at natural size. `onto` draws on the axes and sets their limits.
    """
    width, height = size
    left, right, top, bottom = margins
    with _settings(name):
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        box = (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - top - bottom) / height,
        )
        axes = figure.add_axes(box)
        axes.patch.set_visible(False)
        onto(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _inline(stream.getvalue(), name, title)


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's matplotlibrc says; text is never parsed as a formula."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*[Gg]lyph.*"
        )  # the browser's fonts render the text, not matplotlib's
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": name,
                "text.parse_math": False,
                "axes.unicode_minus": False,
                "font.size": 13,
                "text.color": placeholder_colour("ink"),
                "axes.edgecolor": placeholder_colour("line"),
                "axes.labelcolor": placeholder_colour("muted"),
                "xtick.color": placeholder_colour("line"),
                "ytick.color": placeholder_colour("line"),
                "xtick.labelcolor": placeholder_colour("muted"),
                "ytick.labelcolor": placeholder_colour("muted"),
                "grid.color": placeholder_colour("line"),
            }
        )
        yield


def _inline(svg: str, name: str, title: str) -> Markup:
    root = ElementTree.fromstring(svg)  # noqa: S314 - written by matplotlib just now
    for element in list(root.iter()):
        for child in [child for child in element if _local_name(child.tag) in ("metadata", "style")]:
            element.remove(child)
    elements = [(element, _attributes(element)) for element in root.iter()]
    referenced = {
        element_attributes[key].partition("#")[2].rstrip(")")
        for _, element_attributes in elements
        for key in _REFERENCE_ATTRIBUTES
        if key in element_attributes
    }
    for element, attributes in elements:
        element.tag = _local_name(element.tag)
        element.attrib = {}
        for key, value in sorted(attributes.items()):
            if key in _REFERENCE_ATTRIBUTES:
                element.set(key, value.replace("#", f"#{name}-"))
            elif key != "id":
                element.set(key, _PLACEHOLDERS.get(value, value))
            elif value in referenced:
                element.set(key, f"{name}-{value}")
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    label = ElementTree.Element("title")
    label.text = title
    root.insert(0, label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, so escaped


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    """The element's attributes without namespaces, including the declarations of its `style`."""
    plain = {_local_name(key): value for key, value in element.attrib.items() if key != "style"}
    declarations = (part.partition(":") for part in element.get("style", "").split(";"))
    style = {key.strip(): value.strip() for key, _, value in declarations}
    return plain | {key: value for key, value in style.items() if key in _PRESENTATION}


def _local_name(tag: str) -> str:
    return _NAMESPACE.sub("", tag)
