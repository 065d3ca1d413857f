"""Style of all figures: colours, type, and reproducible SVG."""

import html
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.style
from matplotlib.figure import Figure

from study.protocol.settings import Method

WIDTH = 4.4  # inches; 422 pixels, which a phone shrinks little
FONT = 9.5
INK, MUTED, GRID, PAPER = "#1f2a37", "#66707d", "#d8dde4", "#fffffe"

IN_THE_DARK = {INK: "#e6eaf0", MUTED: "#9ba6b4", GRID: "#39424e", PAPER: "#12161c"}
"""What replaces the colours that are not a method's, where the reader's system is dark."""

# Okabe and Ito's colours, which colour-blind readers can tell apart; without their yellow, which white paper hides
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_KINDS = {
    "naive": (MUTED, "X"),
    "joint": (INK, "*"),
    "cumulative": (INK, "P"),
    "l2": (PALETTE[5], "v"),
    "ewc": (PALETTE[0], "o"),
    "online_ewc": (PALETTE[4], "s"),
    "kfac": ("#6a51a3", "<"),
    "mas": (PALETTE[2], "^"),
    "si": (PALETTE[1], "D"),
    "replay": (PALETTE[3], "p"),
    "lwf": ("#7f5f2a", "h"),
}
_OTHER_KINDS = (("#a6761d", ">"), ("#b2182b", "d"), ("#35978f", "8"))
_DASHES = ("-", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)))
_SHADES = (0.0, -0.4, 0.45)  # towards black and white

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

_STYLE = (
    dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    | {
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": FONT,
        "axes.linewidth": 0.8,
        "axes.titlesize": FONT,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.7,
        "lines.markersize": 4.5,
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.4,
        "svg.fonttype": "none",
        "svg.hashsalt": "clreg",
    }
)


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a method, the same in every figure."""

    color: str
    marker: str
    dashes: str | tuple[int, tuple[float, ...]]


def looks(methods: Mapping[str, Method]) -> dict[str, Look]:
    """The look of each method: hue and marker are its kind's; variants of a kind differ in shade and dashes.

    Avalanche's plugins look like the kind that they implement.
    """
    kinds = [method.kind.removeprefix("avalanche_") for method in methods.values()]
    others = [kind for kind in dict.fromkeys(kinds) if kind not in _KINDS]
    found = {}
    for index, (name, kind) in enumerate(zip(methods, kinds, strict=True)):
        color, marker = _KINDS.get(kind) or _OTHER_KINDS[others.index(kind) % len(_OTHER_KINDS)]
        variant = kinds[:index].count(kind) + (kind == "joint")  # which else has the look of cumulative training
        shade = 0.0 if color in IN_THE_DARK else _SHADES[variant % len(_SHADES)]
        found[name] = Look(_shaded(color, shade), marker, _DASHES[variant % len(_DASHES)])
    return found


def _shaded(color: str, shade: float) -> str:
    """``color`` moved towards white (``shade`` > 0) or black."""
    end = 255 if shade > 0 else 0
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + abs(shade) * (end - channel)):02x}" for channel in channels)


def draw(name: str, alt: str, height: float, paint: Callable[[Figure], None]) -> str:
    """Draw a figure as an ``<svg>`` element; :func:`standalone` makes it a file.

    Args:
        name: prefix of its ids, unique on a page.
        alt: text alternative.
        height: in inches; the width is fixed.
        paint: draws.
    """
    buffer = io.StringIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    return _element(buffer.getvalue(), name, alt)


def standalone(svg: str) -> str:
    """The text of an SVG file that adapts to a dark theme."""
    start = svg.index(">") + 1
    namespaces = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = svg[:start].replace("<svg", f"<svg{namespaces}", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opening}\n<style>{css()}</style>{svg[start:]}\n'


def css() -> str:
    """The CSS rules that figures rely on."""
    # no ancestor in these selectors: what ``<use>`` repeats has none
    rules = "".join(
        f'[style*="{place}: {light}"]{{{place}:{dark}!important}}'
        for light, dark in IN_THE_DARK.items()
        for place in ("fill", "stroke")
    )
    return f"svg *{{stroke-linejoin:round;stroke-linecap:butt}}@media (prefers-color-scheme:dark){{{rules}}}"


def _element(text: str, name: str, alt: str) -> str:
    """The ``<svg>`` element with unique ids, without unused ones."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>\s*", "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]+)"', lambda match: f' id="{name}-{match.group(1)}"' if match.group(1) in used else "", text
    )
    text = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{name}-\2", text)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    opening = f'<svg viewBox="{size.group(0)[9:-1]}" width="{float(size[1]) * 4 / 3:.0f}" role="img"'
    text = re.sub(r"<svg[^>]*>", lambda _: f'{opening} aria-label="{html.escape(alt)}">', text, count=1)
    return re.sub(r"[ \t]*\n", "\n", text).strip()


def band_opacity(bands: int) -> float:
    """So many bands on top of each other still let the lines be seen."""
    return min(0.16, 0.8 / bands)


def within_percent(low: float, high: float) -> tuple[float, float]:
    """Axis limits of accuracies, at most 0 and 100 plus a small margin."""
    return max(low, -1.5), min(high, 101.5)
