#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that kernel units (cmake/kernels/kernels_*.cpp) keep their code to themselves.

    own_symbols.py NM OBJDUMP OBJECT...     (others than kernels_* are left aside)

The linker keeps one of several weak definitions of a function, so a kernel unit may not
define any: nothing but its table leaves it. It has nothing to run before main either, when
nobody has asked the processor. And its instructions are those that its name says: xmm
without VEX, ymm, or zmm.
"""
import re
import subprocess
import sys
from pathlib import Path


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(nm, path):
    """Pairs of nm's letter and the demangled name."""
    lines = output(nm, "--demangle", path).splitlines()
    return [(line[17], line[19:]) for line in lines if line]


def wrong_symbols(nm, path, unit):
    found = symbols(nm, path)
    table = re.compile(r"sparq::v\d+_\d+::detail::kernels_" + unit)
    if not any(letter in "DRB" and table.fullmatch(name) for letter, name in found):
        yield f"has no table kernels_{unit}"
    if not any(letter == "t" for letter, _ in found):
        yield "has no code"
    for letter, name in found:
        local = letter in "tdrbnNaps" or (letter in "VR" and name.startswith("DW.ref."))
        own_table = letter in "DR" and table.fullmatch(name)
        # Functions of C alone, apart from what throws: a C++ one might be anybody's.
        imported = letter == "U" and (re.fullmatch(r"\w+|_GLOBAL_OFFSET_TABLE_", name)
                                      or "::detail::refuse_product(" in name)
        if not (local or own_table or imported):
            yield f"shares {letter} {name[:200]}"


def wrong_sections(objdump, path):
    for line in output(objdump, "-h", path).splitlines():
        section = re.search(r"\.(init_array|preinit_array|ctors|init|text\.startup)\S*", line)
        if section:
            yield f"runs before main: {section.group()}"


def wrong_instructions(objdump, path, unit):
    code = output(objdump, "-d", "--no-show-raw-insn", path)
    vex = re.search(r"^\s+[0-9a-f]+:\s+v[a-z]", code, re.M)
    ymm, zmm = "%ymm" in code, "%zmm" in code
    masks = re.search(r"%k[0-7]", code)
    if unit == "baseline" and (vex or ymm or zmm):
        yield "has VEX instructions"
    if unit == "avx2" and (not ymm or zmm or masks):
        yield "is not AVX2 code"
    if unit == "avx512" and not zmm:
        yield "is not AVX-512 code"


def main():
    nm, objdump, *objects = sys.argv[1:]
    checked, failed = 0, False
    for path in objects:
        unit = re.match(r"kernels_([a-z0-9]+)\.", Path(path).name)
        if not unit:
            continue
        checked += 1
        wrong = [*wrong_symbols(nm, path, unit[1]), *wrong_sections(objdump, path),
                 *wrong_instructions(objdump, path, unit[1])]
        for what in wrong:
            print(f"FAIL: {path} {what}")
        failed |= bool(wrong)
    print(f"{checked} kernel units")
    sys.exit(1 if failed or checked == 0 else 0)


if __name__ == "__main__":
    main()
