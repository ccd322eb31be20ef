#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the pictures of docs/tiers.md from what the programs have measured.

    bench/plot_tiers.py error ERRORS_JSON PICTURE    # sparq_tier_errors --json
    bench/plot_tiers.py time SPEED_TABLE_JSON PICTURE  # sparq_speed_table --only=tiers --json
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = {"SparQ": "#0072B2", "int8 labels": "#56B4E9", "int4 labels": "#009E73",
           "int2 labels": "#CC79A7", "fixed tiers": "#E69F00", "tolerance": "#D55E00"}
MARKERS = {"SparQ": "o", "int8 labels": "v", "int4 labels": "s", "int2 labels": "^"}

# What the project set itself: (fewer bytes, mean error), by length.
TARGETS = {2048: [(9.5, 0.05), (13, 0.075)], 7900: [(18, 0.065), (26, 0.10)]}


def points(rows, family):
    return [(row["fewer_bytes"], row["error"], row) for row in rows
            if row["layer"] == "all" and row["family"] == family]


def draw_grids(axes, rows):
    for family, marker in MARKERS.items():
        for x, y, row in points(rows, family):
            filled = "mean tail" in row["settings"]
            axes.plot(x, y, marker=marker, markersize=4.5, linestyle="", color=COLOURS[family],
                      markerfacecolor=COLOURS[family] if filled else "white", alpha=0.85)


def draw_curves(axes, rows):
    for family, width in (("fixed tiers", 1.4), ("tolerance", 2.6)):
        curve = sorted(points(rows, family), key=lambda point: point[0])
        axes.plot([p[0] for p in curve], [p[1] for p in curve], color=COLOURS[family],
                  linewidth=width, marker="D", markersize=5, zorder=3)
        for x, y, row in curve:
            if family == "tolerance":
                axes.annotate(row["settings"], (x, y), xytext=(5, -11),
                              textcoords="offset points", fontsize=8, color=COLOURS[family])


def draw_targets(axes, tokens):
    for x, y in TARGETS.get(tokens, []):
        axes.plot(x, y, marker="*", markersize=11, color="#444444", linestyle="", zorder=4)


def legend(axes, has_targets):
    handles = [Line2D([], [], color=COLOURS["tolerance"], marker="D", linewidth=2.6,
                      label="tiers, to a tolerance"),
               Line2D([], [], color=COLOURS["fixed tiers"], marker="D", label="tiers, fixed")]
    handles += [Line2D([], [], color=COLOURS[family], marker=marker, linestyle="",
                       label="SparQ, r and k" if family == "SparQ" else f"SparQ, {family}")
                for family, marker in MARKERS.items()]
    handles.append(Line2D([], [], color="#444444", marker="o", linestyle="",
                          markerfacecolor="white", label="hollow: without the mean tail"))
    if has_targets:
        handles.append(Line2D([], [], color="#444444", marker="*", markersize=10, linestyle="",
                              label="target"))
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="lower right")


def plain_numbers(axis, ticks):
    axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def finish(figure, axes, title, subtitle, picture):
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.012, 0.955, title, fontsize=14, fontweight="bold")
    figure.text(0.012, 0.915, subtitle, fontsize=9, color="#444444")
    figure.tight_layout(rect=(0, 0, 1, 0.91))
    figure.savefig(picture)


def draw_errors(figures, picture):
    figure, axes = plt.subplots(figsize=(9.5, 6.6), dpi=110)
    rows, tokens = figures["rows"], figures["tokens"]
    draw_grids(axes, rows)
    draw_curves(axes, rows)
    draw_targets(axes, tokens)
    axes.set(xscale="log", yscale="log", xlabel="times fewer bytes than dense attention reads",
             ylabel="mean of |y $-$ dense| / |dense|")
    plain_numbers(axes.xaxis, [1.5, 2, 3, 5, 7, 10, 15, 20, 30, 40])
    plain_numbers(axes.yaxis, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    legend(axes, tokens in TARGETS)
    finish(figure, axes, "Error against bytes read",
           f"SmolLM2-135M, {figures['layers']} layers, {tokens} tokens; labels: the tolerance",
           picture)


def lines_by_part(figures):
    lines = {}
    for line in figures["times"]:
        if " r=" in line["shape"]:  # another part of the table
            continue
        kind, *size = line["shape"].split()
        values = dict(part.split("=") for part in size)
        if "G" in values:
            lines.setdefault(line["part"], []).append((int(values["S"]), line["us_per_head"]))
    return lines


TIME_STYLES = {"streaming read of K, V": ("#888888", ":", ""),
               "dense": ("#000000", "-", "s"),
               "SparQ r=32 k=128": (COLOURS["SparQ"], "-", "o"),
               "int4 labels r=32 k=128": (COLOURS["int4 labels"], "-", "s"),
               "fixed tiers 32, 1024, 64": (COLOURS["fixed tiers"], "-", "D"),
               "tolerance 0.05": (COLOURS["tolerance"], "--", "D")}


def draw_times(figures, picture):
    figure, axes = plt.subplots(figsize=(9.5, 6.2), dpi=110)
    lines = lines_by_part(figures)
    for part, (colour, style, marker) in TIME_STYLES.items():
        line = sorted(lines[part])
        axes.plot(*zip(*line), color=colour, linestyle=style, marker=marker, markersize=5,
                  label=part)
    lengths = sorted({tokens for tokens, _ in lines["dense"]})
    axes.set(xscale="log", yscale="log", xlabel="tokens in the cache, S",
             ylabel="µs a KV head, one thread")
    axes.set_xticks(lengths, [f"{tokens // 1024}k" for tokens in lengths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    machine = figures["machine"]
    finish(figure, axes, "Time of one decode step",
           f"half, d_h = 128, G = 1, L3 empty; {machine['cpu']} ({machine['instruction_set']}), "
           f"{machine['compiler']}, {machine['date'][:10]}, load {machine['load']:.1f}", picture)


def main(what, source, picture):
    with open(source, encoding="utf-8") as file:
        figures = json.load(file)
    {"error": draw_errors, "time": draw_times}[what](figures, picture)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("error", "time"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
