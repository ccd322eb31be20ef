#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the demo's figures: error against bytes read, a curve for each layer.

usage: plot_demo.py demo.json picture.png
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def curve(rows, layer, tail):
    chosen = [row for row in rows if row["layer"] == layer and row["tail"] == tail]
    return sorted(chosen, key=lambda row: row["bytes_share"])


def column(rows, key):
    return [row[key] for row in rows]


def draw_layer(axes, rows, layer, colour):
    plain, mean = curve(rows, layer, "none"), curve(rows, layer, "mean_value")
    x = column(plain, "bytes_share")
    axes.fill_between(x, column(plain, "error"), column(plain, "worst_head_error"),
                      color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, column(plain, "error"), color=colour, marker="o", markersize=5)
    axes.plot(column(mean, "bytes_share"), column(mean, "error"), color=colour, marker="s",
              markersize=4, linestyle="--", markerfacecolor="white")
    axes.annotate(layer.replace("_", "\n"), (x[-1], plain[-1]["error"]), xytext=(8, 0),
                  textcoords="offset points", va="center", color=colour, fontweight="bold",
                  annotation_clip=False)


def label_axes(axes, rows, layers):
    ticks = curve(rows, layers[0], "none")
    axes.set(xscale="log", yscale="log",
             ylabel="error against dense attention, |y $-$ dense| / |dense|",
             xlabel="bytes read, of what dense attention reads")
    axes.set_xticks(column(ticks, "bytes_share"))
    axes.set_xticklabels([f"{row['bytes_share']:.1%}\nr {row['r']}\nk {row['k']}"
                          for row in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_legend(axes):
    grey = "#444444"
    axes.legend(frameon=False, loc="lower left", handles=[
        Line2D([], [], color=grey, marker="o", label="mean over heads and steps"),
        Line2D([], [], color=grey, marker="s", linestyle="--", markerfacecolor="white",
               label="with the mean value as tail"),
        plt.Rectangle((0, 0), 1, 1, color=grey, alpha=0.15, label="up to the worst head")])


def subtitle(figures):
    text = f"SmolLM2-135M, prompt of {figures['accuracy'][0]['seq_len']} tokens"
    speed = figures.get("speed")
    if speed:
        dense, sparq = (speed[way]["milliseconds"] for way in ("dense", "sparq"))
        text += (f"\nAt S = {speed['seq_len']}, {speed['heads']} heads of {speed['head_dim']},"
                 f" r {speed['r']}, k {speed['k']}: dense {dense:.1f} ms a step,"
                 f" SparQ {sparq:.1f} ms ({figures['cpu']}, one thread)")
    return text


def main(source, picture):
    with open(source, encoding="utf-8") as file:
        figures = json.load(file)
    rows = figures["accuracy"]
    layers = sorted({row["layer"] for row in rows})
    figure, axes = plt.subplots(figsize=(9.5, 6.2), dpi=120)
    for layer, colour in zip(layers, COLOURS):
        draw_layer(axes, rows, layer, colour)
    label_axes(axes, rows, layers)
    draw_legend(axes)
    figure.text(0.012, 0.955, "SparQ attention: error against bytes read", fontsize=14,
                fontweight="bold")
    figure.text(0.012, 0.89, subtitle(figures), fontsize=9, color="#444444")
    figure.tight_layout(rect=(0, 0, 1, 0.88))
    figure.savefig(picture)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
