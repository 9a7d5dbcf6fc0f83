"""The reference of all settings as a page, made from the schemas."""

from collections.abc import Mapping

from cispo.config.described import Key, keys, summary

_HEAD = """# Reference

Every key of every command: its type, its default and what is refused. Made from `cispo/config/` and
`conf/` by `python -m launch.reference`; a test compares them. Defaults are the schema's; the chosen
members of groups may set others: `python -m launch.train --cfg job` prints what a run really gets.

Set a key with `KEY=VALUE`, one below a group with its path: `objective.ratio_max=4.0`. An unknown
key is refused, with `+` too. *Refused* is what the message advises; where it names other keys, only
some combinations are refused.
"""


def reference_page(
    commands: Mapping[str, type], groups: Mapping[str, Mapping[str, str]], *, base: str
) -> str:
    """Write the page.

    Args:
        commands: The schema of each command.
        groups: What each member of each group says of itself.
        base: The command whose keys others may extend.
    """
    places: dict[type, list[str]] = {}
    for schema in commands.values():
        _find(schema, "", places)
    lines = [_HEAD, "## Groups\n", "Choose a member with `GROUP=MEMBER`.\n"]
    lines += ["| group | member | what it is |", "|---|---|---|"]
    for group, members in groups.items():
        lines += [f"| `{group}` | `{name}` | {_cell(said)} |" for name, said in members.items()]
    lines += ["", "## Commands", ""]
    for command, schema in commands.items():
        lines += [f"### {command}", "", summary(schema), ""]
        shown = keys(schema)
        if command != base and issubclass(schema, commands[base]):
            inherited = {key.name for key in keys(commands[base])}
            lines += [f"All keys of [{base}](#{base}), and:", ""]
            shown = [key for key in shown if key.name not in inherited]
        lines += _table(shown)
    lines += ["## What stands below them", ""]
    for schema, paths in places.items():
        where = ", ".join(f"`{path}`" for path in dict.fromkeys(paths))
        lines += [f"### {schema.__name__}", "", summary(schema), "", f"At {where}.", ""]
        lines += _table(keys(schema))
    return "\n".join(lines).rstrip() + "\n"


def _find(schema: type, path: str, places: dict[type, list[str]]) -> None:
    for key in keys(schema):
        if key.below is not None:
            below = path + key.name + _inside(key)
            places.setdefault(key.below, []).append(below)
            _find(key.below, f"{below}.", places)


def _inside(key: Key) -> str:
    """How one of several is reached."""
    if key.kind.startswith("list"):
        return "[i]"
    return ".NAME" if key.kind.startswith("dict") else ""


def _table(shown: list[Key]) -> list[str]:
    lines = ["| key | type | default | meaning | refused |", "|---|---|---|---|---|"]
    for key in shown:
        refused = "; ".join(key.advice)
        if key.below is not None:
            kind, default = f"[{key.below.__name__}](#{key.below.__name__.lower()})", ""
        else:
            kind, default = f"`{key.kind}`", f"`{key.default}`" if key.default else "must be set"
        cells = (f"`{key.name}`", kind, default, key.meaning, refused)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
