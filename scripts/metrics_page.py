"""Write docs/metrics.md from the table of metrics and the study with people.

`python -m scripts.metrics_page` fills the parts between comments; the rest is written by hand.
"""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from scripts.pages import fill
from vsrbench.cards.specs import ROOT
from vsrbench.cli.listing import BETTER
from vsrbench.core.types import MetricInfo
from vsrbench.metrics import METRICS
from vsrbench.results.agreement import Study, read_study

PAGE = ROOT / "docs" / "metrics.md"
WIDTH = 100


def section(info: MetricInfo, study: Study) -> str:
    """All that is known of one metric."""
    facts = [info.unit or "no unit", BETTER[info.better]]
    facts.append(f"needs {', '.join(sorted(info.needs)) or 'nothing'}")
    facts.append(f"same within {info.tolerance:g}")
    facts += ["in every run"] * info.default
    items = [f"Rewards wrongly: {info.flaw}.", f"Verified against: {info.verified}."]
    if opinion := study.of(info.name):
        items.append(f"People: {opinion.text()}.")
    if info.seconds is not None:
        items.append(f"{info.seconds:g} s a frame of 704x576 on one CPU thread.")
    return "\n\n".join(
        [
            f"### `{info.name}`",
            _wrap(f"{info.title}: {'; '.join(facts)}."),
            _wrap(info.source),
            "\n".join(_wrap(f"- {item}", indent="  ") for item in items),
        ]
    )


def tabulate_agreement(study: Study) -> str:
    """How metrics agree with people, as a table."""
    rows = [
        [opinion.title + (f" (`{opinion.id}`)" if opinion.id else ""), opinion.text(), opinion.srcc]
        for opinion in study.opinions
    ]
    head = ["metric", "people", "rank correlation within a source"]
    return tabulate(rows, head, tablefmt="pipe", floatfmt=".2f", disable_numparse=[1])


def render() -> str:
    """The page as the table of metrics has it."""
    study = read_study(ROOT)
    parts = "\n\n".join(section(info, study) for info in METRICS.values())
    text = fill(PAGE.read_text(encoding="utf-8"), "people", tabulate_agreement(study), PAGE)
    return fill(text, "metrics", parts, PAGE)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
