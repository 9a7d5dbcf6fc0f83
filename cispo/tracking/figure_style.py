"""How pictures of runs look."""

INK, MUTED, GRID = "#1f2933", "#65758b", "#e4e8ee"

STYLE = {
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#c5ccd6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 10.5,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
}
"""For `matplotlib.rc_context`."""
