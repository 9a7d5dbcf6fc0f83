"""python -m launch.reference: writes docs/reference.md anew from the schemas and conf/."""

from pathlib import Path

from cispo.config.reference import reference_page
from launch.command import SCHEMAS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"


def page() -> str:
    """Return the page as it should be."""
    groups: dict[str, dict[str, str]] = {}
    for file in sorted((ROOT / "conf").glob("*/*.yaml")):
        comment = [
            line.removeprefix("#").strip()
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.startswith("#") and "@package" not in line
        ]
        groups.setdefault(file.parent.name, {})[file.stem] = comment[0] if comment else ""
    return reference_page(SCHEMAS, groups, base="train")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
