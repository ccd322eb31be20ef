# SPDX-License-Identifier: MIT
"""Prints the table of the measured figures as Markdown and draws the two pictures.

Reads peers.json and, if it is there, torch.json in the folder; writes time.png and
efficiency.png beside them.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

DENSE, SPARQ = "sparq dense, half", "SparQ, half"
# Colours that people with any colour vision can tell apart, and a marker for each.
STYLES = {
    SPARQ: ("#d55e00", "o"),
    DENSE: ("#000000", "s"),
    "ggml flash attention, f16": ("#0072b2", "^"),
    "ggml flash attention, q8_0": ("#56b4e9", "v"),
    "ONNX Runtime GQA, float": ("#009e73", "D"),
    "ONNX Runtime GQA, int8": ("#8fce00", "P"),
    "OpenBLAS sgemv, float": ("#cc79a7", "X"),
    "PyTorch sdpa, bfloat16": ("#888888", "*"),
    "PyTorch sdpa, float32": ("#e69f00", "p"),
}
FOLDED = ", folded"  # the group in the query length: the same colour, dashed
OTHER_STYLE = ("#444444", "h")

# Two threads are timed by the wall: with others on the processors, that says nothing.
MOST_OTHERS_ON_THE_WALL = 0.25


def shape_of(row: dict) -> tuple:
    shape = row["shape"]
    return shape["seq_len"], shape["heads_q"], shape["heads_kv"], shape["head_dim"]


def short_length(tokens: int) -> str:
    return f"{tokens // 1024}k"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_range(figure: dict) -> str:
    return f"{number(figure['median'])} ({number(figure['low'])} to {number(figure['high'])})"


def add_torch(rows: list, torch_rows: list) -> None:
    """PyTorch ran in a process of its own: ratios are those of the medians."""
    by_key = {(shape_of(row), row["threads"], row["method"]): row for row in rows}
    for row in torch_rows:
        for name, other in (("of_dense", DENSE), ("of_sparq", SPARQ)):
            reference = by_key.get((shape_of(row), row["threads"], other))
            if reference:
                row[name] = {"median": row["us"]["median"] / reference["us"]["median"]}
        rows.append(row)


def table(rows: list, title: str) -> str:
    lines = [
        f"### {title}",
        "",
        "| method | µs per step (range) | ns per token and KV head | roof of its own memory, µs "
        "| share of that roof | time, of sparq dense | time, of SparQ | error, tolerance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tolerance = f"{row['tolerance']:g}" if "tolerance" in row else "approximate"
        cells = [
            row["method"],
            with_range(row["us"]),
            f"{row['ns_per_token_and_kv_head']:.1f}",
            number(row["roof_us"]),
            f"{row['share_of_roof']['median']:.2f}",
            *(f"{row[name]['median']:.2f}" if name in row else "" for name in ("of_dense", "of_sparq")),
            f"{row['deviation']:.1g}, {tolerance}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(rows: list, title: str) -> str:
    """The table of one shape; nothing where a wall clock measured other processes."""
    others = rows[0]["processors_used_by_others"]
    if rows[0]["threads"] > 1 and others > MOST_OTHERS_ON_THE_WALL:
        return f"### {title}\n\nLeft out: other processes used {others:.1f} processors meanwhile."
    return table(rows, f"{title} (others used {others:.1f} processors meanwhile)")


def heading(data: dict, command: str) -> str:
    machine, method = data["machine"], data["method"]
    return "\n".join(
        [
            "# A decode step of attention in sparq and in other libraries",
            "",
            f"`{command}` on {machine['cpu']} ({machine['processors']} processors, "
            f"L3 {machine['l3_bytes'] >> 20} MiB, {machine['instruction_set']}), {machine['compiler']}, "
            f"{machine['date']}; load of the last minute {machine['load_before']:.2f} before and "
            f"{machine['load_after']:.2f} after the run (1 to 2 of it our own). {method['rounds']} "
            f"interleaved rounds, medians (range: the lowest and highest); {method['flush_bytes'] >> 20} MiB read before every call to "
            f"empty L3; {method['pages']} pages. One thread in processor time, two in wall time. SparQ "
            "with r = d_h / 4, k = 128, local = 32, mean-value tail.",
            "",
            *(f"- {version}" for version in data["versions"]),
            "",
            "SparQ approximates, and its error on random data says nothing about a model; the other "
            "errors are those of formats and rounding. What is compared, how, and what to keep in mind: "
            "[README.md](README.md).",
        ]
    )


def print_report(data: dict, command: str) -> None:
    print(heading(data, command))
    keys = []
    for row in data["rows"]:
        key = (shape_of(row), row["threads"])
        if row["in_table"] and key not in keys:
            keys.append(key)
    for shape, threads in keys:
        rows = [row for row in data["rows"] if (shape_of(row), row["threads"]) == (shape, threads)]
        tokens, heads_q, heads_kv, head_dim = shape
        title = (
            f"S = {short_length(tokens)}, {heads_q} query heads, {heads_kv} KV heads, d_h = {head_dim}, "
            f"{'one thread' if threads == 1 else 'two threads'}"
        )
        print("\n" + section(rows, title))
    for complaint in data["wrong_results"]:
        print("\nWRONG RESULT: " + complaint)
    print("\n![Time per step against the length of the cache](time.png)")
    print("\n![Efficiency of SparQ against the length of the cache](efficiency.png)")


def series(rows: list, heads_q: int, method: str) -> list:
    """The rows of a method on one thread with 8 KV heads of 128, by length."""
    chosen = [
        row
        for row in rows
        if row["threads"] == 1 and row["method"] == method and shape_of(row)[1:] == (heads_q, 8, 128)
    ]
    return sorted(chosen, key=shape_of)


def label_lengths(axis, lengths: list) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [short_length(length) for length in lengths])
    axis.set_xlabel("tokens in the cache, S")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def draw_times(rows: list, subtitle: str, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 6), sharey=True)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axis, heads_q in zip(axes, (8, 32)):
        lengths = []
        for method in methods:
            points = series(rows, heads_q, method)
            if not points:
                continue
            color, marker = STYLES.get(method.removesuffix(FOLDED), OTHER_STYLE)
            line = "--" if method.endswith(FOLDED) else "-"
            lengths = [shape_of(point)[0] for point in points]
            times = [point["us"]["median"] / 1e3 for point in points]
            width = 2.4 if method in (DENSE, SPARQ) else 1.3
            axis.plot(lengths, times, line, color=color, marker=marker, markersize=6, linewidth=width, label=method)
        label_lengths(axis, lengths)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_title(f"{heads_q} query heads, 8 KV heads (G = {heads_q // 8})", fontsize=11)
    axes[0].set_ylabel("ms per decode step, one thread")
    handles, labels = axes[1].get_legend_handles_labels()  # folded only where there are groups
    figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False, fontsize=9)
    figure.suptitle("Time of one decode step, d_h = 128, L3 empty\n" + subtitle, fontsize=11)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=110)


def draw_efficiency(rows: list, subtitle: str, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(8.4, 5.6))
    lengths = []
    for heads_q, color in ((8, "#d55e00"), (32, "#0072b2")):
        dense, sparq = series(rows, heads_q, DENSE), series(rows, heads_q, SPARQ)
        if not sparq:
            continue
        lengths = [shape_of(point)[0] for point in sparq]
        bytes_of_dense = [a["bytes"] / b["bytes"] for a, b in zip(dense, sparq)]

        def efficiencies(which: str) -> list:
            return [1 / row["of_dense"][which] / ratio for row, ratio in zip(sparq, bytes_of_dense)]

        group = f"G = {heads_q // 8}"
        axis.fill_between(lengths, efficiencies("high"), efficiencies("low"), color=color, alpha=0.15, lw=0)
        axis.plot(lengths, efficiencies("median"), color=color, marker="o", lw=2.4, label=f"{group}: SparQ's efficiency")
        for points, style, name in ((dense, ":", "dense"), (sparq, "--", "SparQ")):
            shares = [point["share_of_roof"]["median"] for point in points]
            axis.plot(lengths, shares, style, color=color, lw=1.3, label=f"{group}: {name}'s share of the memory roof")
    label_lengths(axis, lengths)
    axis.set_ylim(0, None)
    axis.axhline(1, color="#888888", lw=0.8)
    axis.set_ylabel("efficiency, and shares of the roof")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, frameon=False, fontsize=9)
    axis.set_title(
        "Efficiency of SparQ: (dense time ÷ SparQ time) ÷ (dense bytes ÷ SparQ bytes)\n"
        f"{subtitle}; shaded: all rounds",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--command", required=True)
    arguments = parser.parse_args()
    data = json.loads((arguments.folder / "peers.json").read_text())
    torch_file = arguments.folder / "torch.json"
    if torch_file.exists():
        torch = json.loads(torch_file.read_text())
        add_torch(data["rows"], torch["rows"])
        data["versions"].append(torch["version"])
        data["wrong_results"] += torch["wrong_results"]
    print_report(data, arguments.command)
    machine = data["machine"]
    subtitle = f"half, r = 32, k = 128; {machine['cpu']}, {machine['instruction_set']}, {machine['date'][:10]}, one thread"
    draw_times(data["rows"], subtitle, arguments.folder / "time.png")
    draw_efficiency(data["rows"], subtitle, arguments.folder / "efficiency.png")


if __name__ == "__main__":
    main()
