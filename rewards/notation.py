r"""Ways of writing mathematics that math-verify cannot read, turned into ways that it can.

Only regular expressions without nested repetition, because the text may be hostile (stdlib only).
"""

import re
from fractions import Fraction

_INVISIBLE = [0, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)]
_SPACES = "\u00a0\u2007\u2009\u200a\u202f\u3000"
_WIDE = dict(zip(range(0xFF01, 0xFF5F), range(0x21, 0x7F), strict=True))
_PLAIN = {**_WIDE, **dict.fromkeys(_INVISIBLE), **dict.fromkeys(map(ord, _SPACES), " ")}
_PLAIN |= {0x2212: "-", 0x2013: "-", 0x2044: "/", 0x2215: "/"}

_COMMANDS = {
    **{"×": "times", "·": "cdot", "⋅": "cdot", "÷": "div", "π": "pi", "∞": "infty", "±": "pm"},
    **{"≤": "le", "≥": "ge", "≠": "ne", "∪": "cup", "∩": "cap", "∈": "in", "∅": "emptyset"},
    **{"α": "alpha", "β": "beta", "θ": "theta", "≈": "approx"},
}
_SYMBOLS = str.maketrans(
    {
        **{symbol: rf"\{command} " for symbol, command in _COMMANDS.items()},
        **{power: f"^{{{digit}}}" for digit, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"},
        **{"¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "°": r"^\circ "},
        **dict.fromkeys("€£¥₹"),
    }
)
_REWRITTEN = [
    (r"\\(?:fbox|framebox)\s*\{", r"\\boxed{"),
    (r"\\[bB]igg?[lrm]?(?![a-zA-Z])", ""),
    (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    (r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
    (r"\\degree(?![a-zA-Z])", r"^\\circ "),
    (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
    (r"\\\$|~", " "),
    (r"(?<=\d)(?:\\[,!;: ]|\s?\{,\s?\})\s?(?=\d{3}(?!\d))", ""),
    (r"(?<!\\)√\s*\(([^()]*)\)|(?<![\\a-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1\2}"),
    (r"√\s*(\w)(\d*)", r"\\sqrt{\1\2}"),
    (r"(?:\\quad\s*)?\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}(?:\s*\\quad)?", ", "),
    (r"(?<![\d,])(\d{1,3}),(\d{3})(?=\s*/)", r"\1\2"),
    (r"\\begin\{(aligned|gathered)\}([^\\&]*)\\end\{\1\}", r"\2"),
]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _REWRITTEN]
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d{1,30})\}")
_MIXED = re.compile(r"(-?\d+)\s+(\d+)\s*/\s*(\d+)")
_SPACED = re.compile(r"\d{1,3}(?: \d{3})+")
_POWER_OF_TEN = re.compile(r"(-?\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})")
_AREA = re.compile(r"(?<=\d)\s*[kcdm]?m[²³]")
_DESCENDING = re.compile(r"(>|\\(?:gt|geq?|geqslant)(?![a-zA-Z]))")
_PERCENT = re.compile(r"(?<=[\d}])\s*(?:\\?%|percent\b)")


def plain(text: str) -> str:
    """Return the text without invisible characters, and with digits and signs of ASCII."""
    return text.translate(_PLAIN)


def latex(text: str) -> str:
    """Return mathematics, maybe with words around it, in commands that math-verify knows."""
    text = _AREA.sub("", text).translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _REPEATING.sub(_repeating, text)


def number(text: str) -> str:
    """Return what a whole answer says where it is a number in a form of its own, else itself."""
    text = text.strip()
    if match := _POWER_OF_TEN.fullmatch(text):
        return rf"{match[1]}\cdot 10^{{{int(match[2])}}}"
    if match := _MIXED.fullmatch(text):
        return rf"{match[1]}\frac{{{match[2]}}}{{{match[3]}}}"
    return text.replace(" ", "") if _SPACED.fullmatch(text) else text


def ascending(text: str) -> str:
    r"""Return `a < b < c` for `c > b > a`, and everything else as it is."""
    parts = _DESCENDING.split(text)
    if len(parts) != 5:
        return text
    parts[1::2] = ["<" if sign in (">", r"\gt") else r"\le " for sign in parts[1::2]]
    return "".join(reversed(parts))


def without_percent(text: str) -> tuple[str, bool]:
    """Return the text without signs of percentage, and whether it had one."""
    bare, count = _PERCENT.subn("", text)
    return bare, count > 0


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match.groups()
    scale = 10 ** len(fixed)
    value = Fraction(int((whole or "0") + fixed), scale)
    value += Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
