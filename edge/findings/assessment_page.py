"""The figures of ``edge evaluate`` as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge.sources.source import left_out
from edge.training.ec57 import DRAWS
from schemas.counted import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark }
:root { --text: #1b1f24; --quiet: #68707a; --line: #dde1e6; --right: #e8f3ec; --wrong: #fbeaea }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--text) }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .6rem 0 1.6rem }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .3rem }
.quiet { color: var(--quiet) } .right { background: var(--right) } .wrong { background: var(--wrong) }
img { max-width: 100% }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ea; --quiet: #9aa3ad; --line: #3a4047; --right: #1d3a29; --wrong: #4a2326 }
  img { filter: invert(1) hue-rotate(180deg) }
}
"""
HEAD = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
MEASURES = "Se: sensitivity, the share of those there that were found. PPV: the share of those found that were there."
BEATS = "N: normal and bundle branch block; S: supraventricular; V: ventricular; F: fusion; Q: paced or unclassifiable."


def examples_of(figures: dict[str, Any]) -> str:
    """How many there are, and of how many people."""
    return f"{counted(figures['examples'], 'example')} of {counted(len(figures['patients']), 'person', 'people')}"


def brackets(figures: dict[str, Any]) -> str:
    """What the brackets hold, or why there are none."""
    if len(figures["patients"]) > 1:
        return f"brackets: 95 % of {DRAWS:,} draws of people anew"
    return "no brackets: of one person nobody can tell how sure a figure is for another"


def page(figures: dict[str, Any]) -> str:
    """The whole page."""
    title = html.escape(f"{figures['plan']}: {examples_of(figures)}")
    return "\n".join(
        [
            f'<!doctype html><html lang="en">{HEAD}<title>{title}</title><style>{STYLE}</style>',
            f"<h1>{title}</h1>",
            f"<p>Model {html.escape(figures['model'])}, digest {figures['digest'][:12]}.",
            f"{html.escape(figures['data'])}.</p>",
            *(f"<p><b>Note:</b> {html.escape(note)}.</p>" for note in figures["notes"]),
            *(
                f"<p>Left out: {html.escape(left_out(reason, count))}.</p>"
                for reason, count in figures["left_out"].items()
            ),
            *_summary(figures),
            _class_plot(figures),
            *_confusion("All people", figures["confusion"], list(figures["classes"])),
            *_people(figures),
            _people_plot(figures),
            "<details><summary>Each person's confusion</summary>",
            *(
                line
                for person, rows in figures["patients"].items()
                for line in _confusion(person, rows, list(figures["classes"]))
            ),
            "</details>",
            f'<p class="quiet">{MEASURES} {BEATS if figures["detection"] else ""}</p>',
            f'<p class="quiet">{html.escape(brackets(figures))}. This is no clinical validation.</p>',
            "</html>",
        ]
    )


def _summary(figures: dict[str, Any]) -> Iterator[str]:
    yield '<div class="wide"><table><caption>By class</caption><tr><th>class<th>examples<th>Se<th>PPV<th>F1</tr>'
    for name, one in figures["classes"].items():
        cells = "".join(f"<td>{_interval(one[key])}" for key in ("Se", "PPV", "F1"))
        yield f"<tr><td>{html.escape(name)}<td>{one['examples']}{cells}</tr>"
    reported = html.escape(", ".join(figures["reported"]))
    yield f"<tr><td>macro-F1 over {reported}<td><td><td><td>{_interval(figures['macro_f1'])}</tr>"
    yield f"<tr><td>accuracy<td><td><td><td>{_interval(figures['accuracy'])}</tr></table></div>"
    if figures["detection"]:
        yield '<div class="wide"><table><caption>Detection after EC57</caption>'
        yield "<tr><th><th>Se<th>PPV<th>false positive rate</tr>"
        for name, one in figures["detection"].items():
            yield f"<tr><td>{name}" + "".join(f"<td>{_interval(one[key])}" for key in ("Se", "PPV", "FPR")) + "</tr>"
        yield "</table></div>"


def _confusion(caption: str, rows: Sequence[Sequence[int]], classes: Sequence[str]) -> Iterator[str]:
    yield '<div class="wide"><table>'
    yield f"<caption>{html.escape(caption)}: true class down, predicted across</caption><tr><th>"
    yield "".join(f"<th>{html.escape(name)}" for name in classes) + "</tr>"
    for place, (name, row) in enumerate(zip(classes, rows, strict=True)):
        cells = "".join(
            f'<td class="{"right" if at == place else "wrong" if count else ""}">{count}'
            for at, count in enumerate(row)
        )
        yield f"<tr><td>{html.escape(name)}{cells}</tr>"
    yield "</table></div>"


def _people(figures: dict[str, Any]) -> Iterator[str]:
    """One row a person: of each class, how many there are and how many were found."""
    classes = list(figures["classes"])
    yield '<div class="wide"><table><caption>Each person: found of there (and taken for it wrongly)</caption>'
    yield "<tr><th>person"
    yield "".join(f"<th>{html.escape(name)}" for name in classes) + "<th>accuracy</tr>"
    for person, rows in figures["patients"].items():
        cells, total = "", sum(map(sum, rows))
        for place in range(len(classes)):
            there, found = sum(rows[place]), rows[place][place]
            false = sum(row[place] for row in rows) - found
            cells += f"<td>{found} / {there}" + (f' <span class="quiet">(+{false})</span>' if false else "")
        right = sum(rows[place][place] for place in range(len(classes)))
        yield f"<tr><td>{html.escape(person)}{cells}<td>{right / total:.3f}</tr>"
    yield "</table></div>"


def _class_plot(figures: dict[str, Any]) -> str:
    """Se, PPV and F1 of each class with their intervals."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second that only a page pays

    shown = [name for name, one in figures["classes"].items() if not math.isnan(one["Se"][0])]
    drawing = Figure(figsize=(8, 3))
    axes = drawing.subplots()
    for at, (key, colour) in enumerate((("Se", "#3a6ea5"), ("PPV", "#c0792a"), ("F1", "#4d8a57"))):
        estimates = [figures["classes"][name][key] for name in shown]
        values = [0.0 if math.isnan(one[0]) else one[0] for one in estimates]
        reach = [
            [
                0.0 if math.isnan(one[side]) else abs(one[side] - value)
                for one, value in zip(estimates, values, strict=True)
            ]
            for side in (1, 2)
        ]
        places = [place + (at - 1) * 0.27 for place in range(len(shown))]
        axes.bar(places, values, 0.25, yerr=reach, label=key, color=colour, capsize=3)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylim(0, 1)
    axes.set_xlabel("class")
    axes.set_ylabel("share, 0 to 1")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _image(drawing, "Se, PPV and F1 by class")


def _people_plot(figures: dict[str, Any]) -> str:
    """What share of each person's examples is taken for something else, by what they are."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - likewise

    people: dict[str, Sequence[Sequence[int]]] = figures["patients"]
    drawing = Figure(figsize=(8, 2.5))
    axes = drawing.subplots()
    below = [0.0] * len(people)
    for place, name in enumerate(figures["classes"]):
        wrong = [(sum(rows[place]) - rows[place][place]) / sum(map(sum, rows)) for rows in people.values()]
        if any(wrong):
            axes.bar(range(len(people)), wrong, bottom=below, label=name)
        below = [sum(pair) for pair in zip(below, wrong, strict=True)]
    axes.set_xticks(range(len(people)), list(people), rotation=90, fontsize=8)
    axes.set_xlabel("person")
    axes.set_ylabel("share wrong")
    if any(below):
        axes.legend(title="true class", loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _image(drawing, "Share of each person's examples that are wrong, by true class")


def _image(drawing: Figure, what: str) -> str:
    out = io.BytesIO()
    drawing.savefig(out, format="png", dpi=120, bbox_inches="tight")
    return f'<img alt="{what}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def _interval(one: Sequence[float]) -> str:
    value, low, high = one
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(low) else f'{value:.3f} <span class="quiet">[{low:.3f}, {high:.3f}]</span>'
