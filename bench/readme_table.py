#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the benchmark table of README.md from what sparq_speed_table has measured.

    bench/readme_table.py SPEED_TABLE_JSON [README]

Replaces what stands between the markers BENCHMARK TABLE and END OF BENCHMARK TABLE.
"""
import json
import pathlib
import re
import sys

BEGIN, END = "<!-- BENCHMARK TABLE", "<!-- END OF BENCHMARK TABLE -->"


def table_lines(measured):
    """A line for each shape whose dense and SparQ times were measured, as measured."""
    parts = {}
    for line in measured["times"]:
        parts.setdefault(line["shape"], {}).setdefault(line["part"], line)
    for shape, times in parts.items():
        if "dense" not in times or "SparQ" not in times:
            continue
        kind, size = shape.split(" ", 1)
        value = dict(part.split("=") for part in size.split())
        dense, sparq = times["dense"], times["SparQ"]
        time = sparq["us_per_head"] / dense["us_per_head"]
        read = sparq["bytes_per_head"] / dense["bytes_per_head"]
        yield (f"| {value['S']} | {value['d_h']} | {value['G']} | {kind} | {value['r']} "
               f"| {dense['of_roof']:.2f} | {sparq['of_roof']:.2f} "
               f"| {dense['us_per_head']:.0f} | {sparq['us_per_head']:.0f} "
               f"| {time:.2f} | {read:.2f} | {read / time:.2f} |")


def section(measured):
    machine, method = measured["machine"], measured["method"]
    if method["quick"] or measured["wrong_results"]:
        sys.exit("not a measurement to quote: quick, or with wrong results")
    option = " --huge_pages" if machine["pages"] == "huge" else ""
    head = (f"One thread of an {machine['cpu']} ({machine['instruction_set']}, a shared virtual "
            f"machine, load {machine['load']:.1f}), {machine['compiler']}, {machine['date']}, "
            f"{machine['pages']} pages, k = 128, mean-value tail, caches of "
            f"{method['cache_bytes'] >> 20} MiB, L3 flushed before every call, medians of "
            f"{method['rounds']} interleaved rounds (`sh bench/run.sh{option}`; then "
            f"`bench/readme_table.py build/bench/speed_table.json` writes this table):")
    columns = ["S", "d_h", "G", "type", "r", "dense, share of roof", "SparQ, share of roof",
               "dense, µs a KV head", "SparQ, µs", "SparQ time, of dense", "bytes, of dense",
               "efficiency"]
    return "\n".join([BEGIN + ": written by bench/readme_table.py -->", head, "",
                      "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|",
                      *table_lines(measured), END])


def main():
    measured = json.loads(pathlib.Path(sys.argv[1]).read_text())
    root = pathlib.Path(__file__).resolve().parent.parent
    readme = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "README.md"
    text = readme.read_text()
    new, count = re.subn(re.escape(BEGIN) + ".*?" + re.escape(END),
                         lambda _: section(measured), text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{readme}: the markers stand there {count} times")
    readme.write_text(new)


if __name__ == "__main__":
    main()
