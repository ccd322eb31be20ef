#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the pictures and writes the tables of a run.

usage: plot.py FOLDER    with summary.json and, if there, fidelity.csv; writes the .png files and
                         tables.md there
"""
import csv
import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours: told apart by colour-blind readers too; a marker for each.
FAMILIES = {
    "SparQ": ("#d55e00", "o"),
    "SparQ, mean value": ("#e69f00", "s"),
    "SparQ, dense layers": ("#009e73", "D"),
    "SparQ, labels of few bits": ("#7f3f98", "h"),
    "tiers": ("#b00020", "p"),
    "H2O": ("#0072b2", "^"),
    "LM-Infinite": ("#56b4e9", "v"),
    "Quest": ("#cc79a7", "P"),
    "FlexGen": ("#8c8c00", "X"),
    "quantised cache": ("#000000", "*"),
    "other": ("#888888", "."),
}
RIVALS = {"tiers": "tiers", "sparq_codes": "SparQ, labels of few bits", "h2o": "H2O",
          "lm_infinite": "LM-Infinite", "quest": "Quest", "flexgen": "FlexGen",
          "q8_0": "quantised cache", "q4_0": "quantised cache"}
TEXTS = {"kjv": "King James Bible", "austen": "Jane Austen"}
LAYER_COLOURS = ["#d55e00", "#e69f00", "#009e73", "#0072b2", "#cc79a7", "#56b4e9", "#000000",
                 "#7f3f98", "#b00020", "#ff7f8f"]


def parts(method):
    """A method's name and options."""
    name, _, options = method.partition(":")
    return name, dict(option.split("=") for option in options.split(",") if option)


def family(method):
    name, options = parts(method)
    if name != "sparq":
        return RIVALS.get(name, "other")
    if options.get("dense_layers", "0") != "0":
        return "SparQ, dense layers"
    return "SparQ, mean value" if options.get("tail") == "mean" else "SparQ"


def label(method):
    """A method for readers."""
    name, o = parts(method)
    if name in ("q8_0", "q4_0"):
        return f"{name} cache" + (", not rotated" if o.get("rotation") == "off" else "")
    if name == "ggml":
        return "ggml, untouched"
    if name == "dense":
        return "dense"
    if name == "tiers":
        size = (f"refined {o['refined']}, exact {o['exact']}" if "refined" in o
                else f"tolerance {o.get('tolerance', '0.05')}")
        return f"tiers, {size}"
    if name == "sparq_codes":
        text = f"SparQ r = {o.get('r', '16')}, k = {o.get('k', '128')}, int{o.get('bits', '4')} labels"
        if o.get("components") == "spread":
            text += ", by spread"
        return text + (", no temperature" if o.get("temperature") == "none" else "")
    text = "SparQ" if name == "sparq" else RIVALS.get(name, name)
    if "share" in o:
        text += f" at 1/{1 / float(o['share']):g}"
    elif name == "sparq":
        text += f" r = {o.get('r', '16')}, k = {o.get('k', '128')}"
    else:
        text += f" k = {o.get('k', '128')}"
    if o.get("tail") == "mean":
        text += ", mean value"
    if "dropped" in o:
        text += f", {o['dropped']}"
    if o.get("newest") == "on":
        text += ", newest page"
    if o.get("ranking") == "logit":
        text += ", by logits"
    layers = int(o.get("dense_layers", 0))
    return text + (f", {layers} dense layer{'s' * (layers > 1)}" if layers else "")


def fewer(share):
    return f"{1 / share:.3g}x" if share else ""


def with_error(estimate, sign=False, digits=3):
    if estimate["mean"] is None:
        return ""
    text = f"{estimate['mean']:{'+' if sign else ''}.{digits}f}"
    error = estimate["standard_error"]
    return text if error is None else f"{text} ± {error:.{digits}f}"


def of(groups, task, text=None, context=None):
    return [g for g in groups if g["task"] == task and text in (None, g["text"])
            and context in (None, g["context"])]


def cases(groups, task):
    """Texts and contexts of a task, by length; the King James Bible first."""
    return sorted({(g["text"], g["context"]) for g in groups if g["task"] == task},
                  key=lambda case: (case[1], case[0] != "kjv", case[0]))


def title(text, context):
    return f"{context} tokens, {TEXTS.get(text, text)}"


def table(rows, task, score):
    """Markdown; dense first, then by bytes."""
    rows = sorted(rows, key=lambda g: (g["method"] != "dense", -g["bytes"]))
    lines = [f"| method | fewer bytes | {score} | over dense, paired | most likely token right "
             "| examples |", "|---|---|---|---|---|---|"]
    for g in rows:
        difference = "" if g["method"] == "dense" else with_error(g["difference"], sign=True)
        accuracy = with_error(g["accuracy"]) if task in ("bits", "copy") else ""
        digits = 3 if task in ("bits", "copy") else 1
        lines.append(f"| {label(g['method'])} | {fewer(g['bytes'])} | "
                     f"{with_error(g['score'], digits=digits)} | {difference} | {accuracy} | "
                     f"{g['score']['examples']} |")
    return "\n".join(lines)


def finish(figure, file):
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)
    print(file)


def bare(axes):
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def byte_axis(axes):
    axes.set_xscale("log", base=2)
    ticks = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
    axes.set_xticks(ticks, ["1", "1/2", "1/4", "1/8", "1/16", "1/32"])
    axes.set_xlim(1.2, 1 / 40)
    axes.set_xlabel("bytes moved a step, of dense attention's")
    bare(axes)


def scatter(axes, groups, value):
    """What there is a crowd of (the whole grid) gets small marks without error bars."""
    shown = [g for g in groups if g["method"] not in ("dense", "ggml")
             and value(g)["mean"] is not None and g["bytes"]]
    count = Counter(family(g["method"]) for g in shown)
    for g in sorted(shown, key=lambda g: -count[family(g["method"])]):  # few above many
        name = family(g["method"])
        colour, marker = FAMILIES[name]
        crowd = count[name] > 25
        axes.errorbar(g["bytes"], value(g)["mean"],
                      yerr=None if crowd else value(g)["standard_error"] or 0.0,
                      color=colour, marker=marker, markersize=4 if crowd else 7, linewidth=1,
                      capsize=2, linestyle="none", alpha=0.55 if crowd else 1.0,
                      markeredgecolor="white", markeredgewidth=0.3 if crowd else 0.5)
    curve = sorted((g["bytes"], value(g)["mean"]) for g in shown
                   if g["method"].startswith("tiers:tolerance"))
    if curve:
        axes.plot(*zip(*curve), color=FAMILIES["tiers"][0], linewidth=1)


def legend(figure, groups):
    there = {family(g["method"]) for g in groups if g["method"] not in ("dense", "ggml")}
    handles = [plt.Line2D([], [], color=colour, marker=marker, linestyle="none", label=name)
               for name, (colour, marker) in FAMILIES.items() if name in there]
    figure.legend(handles=handles, frameon=False, loc="lower center", ncol=4,
                  bbox_to_anchor=(0.5, 1.0))


def examples_text(groups):
    counts = sorted({g["score"]["examples"] for g in groups})
    text = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} example{'' if text == '1' else 's'}"


def draw_bytes(groups, folder):
    """Bits per character over dense for every context, and the accuracy of copying."""
    panels = [(task, *case) for task in ("bits", "copy") for case in cases(groups, task)]
    if not panels:
        return
    columns = 2
    rows = math.ceil(len(panels) / columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(12, 4.2 * rows), squeeze=False)
    for axes in all_axes.flat[len(panels):]:
        axes.set_visible(False)
    for axes, (task, text, context) in zip(all_axes.flat, panels):
        some = of(groups, task, text, context)
        if task == "bits":
            scatter(axes, some, lambda g: g["difference"])
            axes.axhline(0, color="#444444", linewidth=0.8)
            axes.set_yscale("symlog", linthresh=0.02, linscale=1.4)
            ticks = [-0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
            axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
            axes.margins(y=0.08)
            axes.set_ylabel("bits per character over dense")
        else:
            scatter(axes, some, lambda g: g["accuracy"])
            for g in some:
                if g["method"] == "dense":
                    axes.axhline(g["accuracy"]["mean"], color="#444444", linewidth=0.8)
            axes.set_ylabel("copied tokens predicted right (line: dense)")
        byte_axis(axes)
        axes.set_title(f"{'bits per character' if task == 'bits' else 'copy'}, "
                       f"{title(text, context)}, {examples_text(some)}", fontsize=10.5)
    legend(figure, of(groups, "bits") + of(groups, "copy"))
    figure.tight_layout()
    finish(figure, folder / "bytes.png")


def annotate(axes, values, xs, ys, text, dark):
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            if (x, y) in values:
                value = values[x, y]
                axes.text(j, i, text(value), ha="center", va="center", fontsize=8.5,
                          color="white" if dark(value) else "black")


# What a panel of the r x k picture holds: tail, ranking, dense layers.
GRID_PANELS = {("none", "softmax", "0"): "no tail, group ranked by the sum of weights",
               ("none", "logit", "0"): "no tail, group ranked by the sum of logits",
               ("mean", "softmax", "0"): "mean value in all layers",
               ("mean", "softmax", "1"): "mean value, lowest layer dense"}


def grid_cells(groups):
    """SparQ by text and context, then by panel: {(k, r): group}."""
    found = defaultdict(lambda: defaultdict(dict))
    for g in of(groups, "bits"):
        name, o = parts(g["method"])
        panel = o.pop("tail", ""), o.pop("ranking", "softmax"), o.pop("dense_layers", "0")
        if name == "sparq" and set(o) == {"r", "k"} and panel in GRID_PANELS:
            found[g["text"], g["context"]][panel][int(o["k"]), int(o["r"])] = g
    return found


def draw_grid(groups, folder):
    """r x k, the text and context that have most of them; a panel for each choice of tail, ranking
    and dense layers of which there is more than a cell or two. Colours end where those of SparQ
    without a tail do."""
    found = grid_cells(groups)
    if not found:
        return
    case = max(found, key=lambda c: sum(map(len, found[c].values())))
    first, *_ = GRID_PANELS
    panels = {panel: found[case][panel] for panel in GRID_PANELS
              if len(found[case][panel]) > (0 if panel == first else 2)}
    if not panels:
        return
    every = [g for cells in panels.values() for g in cells.values()]
    ks = sorted({k for cells in panels.values() for k, _ in cells})
    rs = sorted({r for cells in panels.values() for _, r in cells})
    plain = [g for panel in panels if panel[0] == "none" for g in panels[panel].values()]
    most = max(g["difference"]["mean"] for g in plain or every)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, all_axes = plt.subplots(
        lines, columns, squeeze=False, layout="constrained",
        figsize=((1.3 * len(ks) + 0.8) * columns + 0.8, (0.9 * len(rs) + 0.8) * lines + 0.8))
    for axes in all_axes.flat[len(panels):]:
        axes.set_axis_off()
    for axes, (panel, cells) in zip(all_axes.flat, panels.items()):
        grid = [[max(cells[k, r]["difference"]["mean"], 0.0) if (k, r) in cells else math.nan
                 for k in ks] for r in rs]
        image = axes.imshow(grid, cmap="cividis_r", vmin=0, vmax=most, aspect="auto")
        annotate(axes, cells, ks, rs,
                 lambda g: f"{with_error(g['difference'], sign=True)}\n"
                           f"{fewer(g['bytes'])} fewer",
                 lambda g: g["difference"]["mean"] > most / 2)
        axes.set_xticks(range(len(ks)), ks)
        axes.set_yticks(range(len(rs)), rs)
        axes.set(xlabel="k, tokens attended", ylabel="r, query components")
        axes.set_title(GRID_PANELS[panel], fontsize=10)
    figure.suptitle(f"SparQ: bits per character over dense, and times fewer bytes; {title(*case)}, "
                    f"{examples_text(every)}", fontsize=10)
    figure.colorbar(image, ax=all_axes.ravel().tolist(), extend="max")
    finish(figure, folder / "grid.png")


def needle_text(groups):
    texts = [g["text"] for g in of(groups, "needle")]
    return max(texts, key=texts.count) if texts else None


def draw_needles(groups, folder):
    """A map of lengths x depths for each method; of the text that has most of them."""
    by_method = defaultdict(dict)
    text = needle_text(groups)
    for g in of(groups, "needle", text):
        if g["depth"] >= 0:
            by_method[g["method"]][g["context"], g["depth"]] = g
    if not by_method:
        return
    names = sorted(by_method, key=lambda m: (m != "dense", family(m), m))
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for axes in all_axes.flat[len(names):]:
        axes.set_visible(False)
    for axes, name in zip(all_axes.flat, names):
        cells = by_method[name]
        lengths, depths = sorted({c for c, _ in cells}), sorted({d for _, d in cells})
        grid = [[cells[c, d]["score"]["mean"] if (c, d) in cells else math.nan for c in lengths]
                for d in depths]
        axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        annotate(axes, cells, lengths, depths, lambda g: f"{g['score']['mean']:.2g}",
                 lambda g: g["score"]["mean"] < 0.5)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_yticks(range(len(depths)), [f"{d:g}" for d in depths])
        share = sum(g["bytes"] for g in cells.values()) / len(cells)
        axes.set_title(f"{label(name)}\n{fewer(share)} fewer bytes" if name != "dense" else "dense",
                       fontsize=9)
        axes.set(xlabel="tokens", ylabel="depth")
    cells = [g for g in of(groups, "needle", text) if g["depth"] >= 0]
    figure.suptitle(f"Needles found in the {TEXTS.get(text, text)}, {examples_text(cells)} a cell")
    figure.tight_layout()
    finish(figure, folder / "needle.png")


def read_fidelity(file):
    """Per method and layer: means over heads, and the worst head's error."""
    heads = defaultdict(list)
    with open(file, encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            heads[row["method"], int(row["layer"])].append(row)
    mean = {}
    for key, rows in heads.items():
        mean[key] = {name: sum(float(row[name]) for row in rows) / len(rows)
                     for name in ("recall", "mass", "share", "error", "bytes")}
        mean[key]["worst_head"] = max(float(row["error"]) for row in rows)
    return mean


def draw_fidelity(mean, folder):
    methods = list(dict.fromkeys(method for method, _ in mean))
    layers = sorted({layer for _, layer in mean})
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 7.5), sharex=True)
    for method, colour in zip(methods, LAYER_COLOURS * 2):
        marker = FAMILIES[family(method)][1]
        there = [layer for layer in layers if (method, layer) in mean]
        share = sum(mean[method, layer]["bytes"] for layer in there) / len(there)
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.2,
                 "label": f"{label(method)} ({fewer(share)} fewer bytes)"}
        if any(mean[method, layer]["share"] for layer in there):  # tiers choose no tokens
            above.plot(there, [mean[method, layer]["share"] for layer in there], **style)
        below.plot(there, [mean[method, layer]["error"] for layer in there], **style)
    above.set_ylabel("weight attended,\nof what as many tokens could hold")
    below.set(ylabel="output error, |y − dense| / |dense|", xlabel="layer", yscale="log")
    bare(above)
    bare(below)
    above.legend(*below.get_legend_handles_labels(), frameon=False, fontsize=8.5, ncol=2,
                 loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    finish(figure, folder / "fidelity.png")


def fidelity_table(mean):
    methods = list(dict.fromkeys(method for method, _ in mean))
    lines = ["| method | fewer bytes | of the best tokens' weight | weight attended | output error, mean "
             "| in the worst layer |", "|---|---|---|---|---|---|"]
    for method in methods:
        rows = {layer: row for (name, layer), row in mean.items() if name == method}
        average = {name: sum(row[name] for row in rows.values()) / len(rows)
                   for name in ("share", "mass", "error", "bytes")}
        worst = max(rows, key=lambda layer: rows[layer]["error"])
        choice = (f"{average['share']:.3f} | {average['mass']:.3f}" if average["share"] else " | ")
        lines.append(f"| {label(method)} | {fewer(average['bytes'])} | {choice} | "
                     f"{average['error']:.3f} | "
                     f"{rows[worst]['error']:.2f} (layer {worst}) |")
    return "\n".join(lines)


def needle_table(groups):
    some = [g for g in of(groups, "needle", needle_text(groups)) if g["depth"] < 0]
    lengths = sorted({g["context"] for g in some})
    lines = ["| found of the needles | " + " | ".join(f"{c} tokens" for c in lengths) + " |",
             "|---" * (len(lengths) + 1) + "|"]
    methods = sorted({g["method"] for g in some}, key=lambda m: (m != "dense", family(m), m))
    for method in methods:
        cells = {g["context"]: g for g in some if g["method"] == method}
        lines.append(f"| {label(method)} | " + " | ".join(
            f"{cells[c]['score']['mean'] * cells[c]['score']['examples']:.0f} of "
            f"{cells[c]['score']['examples']} ({fewer(cells[c]['bytes'])})" if c in cells else ""
            for c in lengths) + " |")
    return "\n".join(lines)


def tables(summary, fidelity):
    groups = summary["groups"]
    text = [summary["about"]]
    names = {"bits": "bits per character", "copy": "bits per character",
             "repetition": "characters repeated"}
    for task, score in names.items():
        for case in cases(groups, task):
            text += [f"### {task}, {title(*case)}", table(of(groups, task, *case), task, score)]
    if cases(groups, "needle"):
        text += ["### needle", needle_table(groups)]
    if fidelity:
        text += ["### fidelity", fidelity_table(fidelity)]
    return "\n\n".join(text) + "\n"


def main(folder):
    folder = Path(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    groups = summary["groups"]
    draw_bytes(groups, folder)
    draw_grid(groups, folder)
    draw_needles(groups, folder)
    fidelity = {}
    if (folder / "fidelity.csv").exists():
        fidelity = read_fidelity(folder / "fidelity.csv")
        draw_fidelity(fidelity, folder)
    (folder / "tables.md").write_text(tables(summary, fidelity), encoding="utf-8")
    print(folder / "tables.md")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
