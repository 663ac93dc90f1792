"""The timelines of clips as a drawing: a panel for each clip, a line for each of its likeliest classes.

draw_timelines(gathered.of, Path("timeline.svg"))       # or .png
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

from shotfit.errors import ShotfitError
from shotfit.files import write_atomically
from shotfit.fitting.predictions import Timeline
from shotfit.report.svg import LINES, check_extra, shortened

__all__ = ["MOST_CLIPS", "draw_timelines"]

MOST_CLIPS = 30
CLASSES = 5  # of a panel: those of the highest mean


def draw_timelines(timelines: Mapping[str, Timeline], out: Path) -> None:
    """Draw the first MOST_CLIPS clips.

    Raises ShotfitError where there is no clip, UsageError where matplotlib is missing.
    """
    check_extra()
    if not timelines:
        raise ShotfitError(f"{out} is not written: none of the pictures is a clip.")
    import matplotlib
    from matplotlib.figure import Figure

    shown = list(timelines.items())[:MOST_CLIPS]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shotfit"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(8, 1.9 * len(shown) + 0.4), layout="constrained")
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, (clip, one) in zip(panels, shown, strict=True):
            timed = one.times[0] is not None
            places = [place if time is None else time for place, time in enumerate(one.times)]
            best = one.probabilities.mean(axis=0).argsort()[::-1][:CLASSES]
            for color, label in zip(LINES, best.tolist(), strict=False):
                name = shortened(one.class_names[label], 24)
                axes.plot(places, one.probabilities[:, label], ".-", color=color, label=name, linewidth=1.6)
            axes.set_title(shortened(clip, 80), loc="left", fontsize=9, parse_math=False)
            axes.set_ylim(-0.03, 1.03)
            axes.set_xlabel("seconds" if timed else "frame", fontsize=8)
            axes.set_ylabel("probability", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
            legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
        stream = io.BytesIO()
        metadata = {"Date": None} if out.suffix.lower() == ".svg" else {}
        figure.savefig(stream, format=out.suffix.lower()[1:], dpi=150, metadata=metadata)
    write_atomically(out, stream.getvalue())
