"""The picture of gains: each bank's gain with its one-sided bounds against the threshold its clause asks."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # a file, not a window

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scenarios.play import Played

HOLDS, FAILS, INK, PAPER = "#1b7f5c", "#c0392b", "#22313f", "#ffffff"


def draw(played: Sequence[Played], path: Path) -> Path:
    """Draw one panel for each contract and write a PNG."""
    figure, axes = plt.subplots(
        1, len(played), figsize=(5.4 * len(played), 3.4), sharex=True, squeeze=False, layout="constrained"
    )
    for panel, contract in zip(axes[0], played, strict=True):
        _panel(panel, contract)
    figure.supxlabel(
        "gain in average precision over the bank's own model, with one-sided bounds; dark: what the clause asks",
        color=INK,
        fontsize=9,
    )
    figure.savefig(path, dpi=130, facecolor=PAPER)
    plt.close(figure)
    return path


def _panel(panel: Axes, played: Played) -> None:
    names = list(played.rows)
    for place, name in enumerate(names):
        row = played.rows[name]
        panel.plot([row.threshold] * 2, [place - 0.32, place + 0.32], color=INK, linewidth=1.4)
        found = row.measurement
        if found is None or found.gain is None or found.gain_lower is None or found.gain_upper is None:
            panel.annotate("no figure", (row.threshold, place), color=FAILS)
            continue
        colour = HOLDS if row.outcome == "holds" else FAILS
        panel.plot(
            [found.gain_lower, found.gain_upper], [place, place], color=colour, linewidth=3, solid_capstyle="round"
        )
        panel.plot(found.gain, place, "o", color=colour, markersize=8)
        panel.annotate(
            f"{found.own or 0:.2f} → {found.joint or 0:.2f}",
            (found.gain, place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
        )
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_title(f"{played.world}: {played.verdict}", loc="left", color=INK, fontsize=11)
    panel.grid(axis="x", color="#dde3e8", linewidth=0.7)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(left=False, colors=INK)
