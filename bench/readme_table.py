#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the speed section of README.md from what sparq_speed_table has measured.

    bench/readme_table.py SPEED_TABLE_JSON [README]

Replaces what stands between the markers BENCHMARK TABLE and END OF BENCHMARK TABLE, and between
CLAIM and END OF CLAIM how many times as fast as dense attention SparQ is in CLAIMED.
"""
import json
import pathlib
import re
import sys

BEGIN, END = "<!-- BENCHMARK TABLE", "<!-- END OF BENCHMARK TABLE -->"
BEGIN_CLAIM, END_CLAIM = "<!-- CLAIM -->", "<!-- END OF CLAIM -->"
CLAIMED = "half", "16384", "1", "32"  # type, S, G, r
# Rows of the run that are not in the table: how they begin, and of which lengths (None: all).
OTHERS = [("two threads", None), ("one long head", None), ("append", None), ("short", None),
          ("int4 labels", ("16384", "65536")), ("fixed tiers", ("16384", "65536")),
          ("tolerance 0.05:", ("16384", "65536")), ("tolerance 0.1:", ("16384", "65536"))]


def shape_of(text):
    """As "half S=16384 H_kv=85 G=1": the type, if there is one, and the numbers by name."""
    words = text.split()
    return (next((word for word in words if "=" not in word), ""),
            dict(word.split("=") for word in words if "=" in word))


def whole_calls(measured):
    """Type, numbers, dense and SparQ for each shape of which both were measured."""
    parts = {}
    for line in measured["times"]:
        parts.setdefault(line["shape"], {}).setdefault(line["part"], line)
    for shape, times in parts.items():
        if "dense" in times and "SparQ" in times:
            yield *shape_of(shape), times["dense"], times["SparQ"]


def table_lines(measured):
    for kind, value, dense, sparq in whole_calls(measured):
        time = sparq["us_per_head"] / dense["us_per_head"]
        read = sparq["bytes_per_head"] / dense["bytes_per_head"]
        yield (f"| {value['S']} | {value['d_h']} | {value['G']} | {kind} | {value['r']} "
               f"| {dense['of_roof']:.2f} | {sparq['of_roof']:.2f} "
               f"| {dense['us_per_head']:.0f} | {sparq['us_per_head']:.0f} "
               f"| {time:.2f} | {read:.2f} | {read / time:.2f} |")


def other_lines(measured):
    for row in measured["rows"]:
        kind, value = shape_of(row["shape"])
        if any(row["measure"].startswith(begin) and (lengths is None or value["S"] in lengths)
               for begin, lengths in OTHERS):
            where = ", ".join([kind] + [f"{name} = {value[name].replace('..', ' to ')}"
                                        for name in ("S", "d_h", "G") if name in value])
            yield (f"| {row['measure']} | {where} "
                   f"| {row['median']:.2f} ({row['low']:.2f} to {row['high']:.2f}) |")


def claim(measured):
    for kind, value, dense, sparq in whole_calls(measured):
        if (kind, value["S"], value["G"], value["r"]) == CLAIMED:
            return f"{dense['us_per_head'] / sparq['us_per_head']:.1f}"
    sys.exit("the run has no figures for " + " ".join(CLAIMED))


def section(measured):
    machine, method = measured["machine"], measured["method"]
    if method["quick"] or measured["wrong_results"]:
        sys.exit("not a measurement to quote: quick, or with wrong results")
    option = " --huge_pages" if machine["pages"] == "huge" else ""
    head = (f"One thread of an {machine['cpu']} ({machine['instruction_set']}, a shared virtual "
            f"machine, load {machine['load']:.1f}), {machine['compiler']}, {machine['date']}, "
            f"{machine['pages']} pages, k = 128, mean-value tail, caches of "
            f"{method['cache_bytes'] >> 20} MiB, L3 flushed before every call, roof: "
            f"{method['roof']}; medians of {method['rounds']} interleaved rounds (`sh bench/run.sh{option}`; then "
            f"`bench/readme_table.py build/bench/speed_table.json` writes this table):")
    columns = ["S", "d_h", "G", "type", "r", "dense, share of roof", "SparQ, share of roof",
               "dense, µs a KV head", "SparQ, µs", "SparQ time, of dense", "bytes, of dense",
               "efficiency"]
    return "\n".join([BEGIN + ": written by bench/readme_table.py -->", head, "",
                      "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|",
                      *table_lines(measured), "",
                      "| the same run | shape | median (lowest, highest round) |",
                      "|---|---|---|", *other_lines(measured), END])


def replace(text, begin, end, new):
    text, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: new, text,
                          flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{begin}: the markers stand there {count} times")
    return text


def main():
    measured = json.loads(pathlib.Path(sys.argv[1]).read_text())
    root = pathlib.Path(__file__).resolve().parent.parent
    readme = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "README.md"
    text = replace(readme.read_text(), BEGIN, END, section(measured))
    readme.write_text(replace(text, BEGIN_CLAIM, END_CLAIM,
                              BEGIN_CLAIM + claim(measured) + END_CLAIM))


if __name__ == "__main__":
    main()
