"""Pieces of a self-contained HTML page (stdlib only)."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { --ink: #1f2933; --muted: #65758b; --line: #e4e8ee; --blue: #2563eb; --soft: #f6f8fb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 2.5rem 1.5rem 5rem; color: var(--ink);
  background: #fff; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 2rem; } h2 { margin: 2.8rem 0 .8rem; font-size: 1.25rem; }
p.lead { margin: .2rem 0 1.6rem; color: var(--muted); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: .8rem; }
.card { padding: .9rem 1rem; border: 1px solid var(--line); border-radius: 10px; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: .85rem; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--muted); font-weight: 600; } td.number, th.number { text-align: right; }
pre { margin: 0; padding: .8rem 1rem; background: var(--soft); border-radius: 8px; overflow-x: auto;
  font: 13.5px/1.5 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; }
.rollout { margin: 1rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: 10px; }
.rollout header { display: flex; flex-wrap: wrap; gap: .4rem 1rem; margin-bottom: .6rem;
  color: var(--muted); font-size: .88rem; }
.verdict { margin: 0 0 1.2rem; padding: .8rem 1.1rem; border-left: 6px solid; border-radius: 8px; }
.verdict b { font-size: 1.1rem; } .verdict ul { margin: .4rem 0 0; padding-left: 1.3rem; }
.verdict li b { font-size: inherit; } .verdict p { margin: .3rem 0 0; color: var(--muted); }
.verdict.healthy { background: #e7f5ef; border-color: #117a59; }
.verdict.look { background: #fdeee8; border-color: #c2370f; }
.right { color: #117a59; font-weight: 600; } .wrong { color: #c2370f; font-weight: 600; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def cards(values: Mapping[str, str]) -> str:
    """Large numbers, each with its caption."""
    shown = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(caption)}</span></div>'
        for caption, value in values.items()
    )
    return f'<div class="cards">{shown}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = ["", *[' class="number"'] * (len(row) - 1)]
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def folded(title: str, content: str) -> str:
    """Text that unfolds with a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(content)}</pre></details>"
