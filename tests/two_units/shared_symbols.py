#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that objects compiled for different instruction sets share no code of sparq that
needs the wider one.

    shared_symbols.py NM OBJDUMP OBJECT...      (the baseline object first)

The linker keeps one copy of a weak symbol that several objects define. A function of the
library that stands in the baseline object and in a wider one, and whose wider copy uses
VEX or EVEX instructions, may then run on a processor that lacks them: a failure here.
"""
import re
import subprocess
import sys


def weak_functions(nm, path):
    """Mangled to demangled names of the weak functions that an object defines."""
    def names(*options):
        text = subprocess.run([nm, "--defined-only", *options, path], check=True,
                              capture_output=True, text=True).stdout
        return [line.split(" ", 2)[2] for line in text.splitlines()
                if line.split(" ", 2)[1] in "Ww"]
    return dict(zip(names("-p"), names("-p", "--demangle")))


def wide_functions(objdump, path):
    """Mangled names of the functions whose code has VEX or EVEX instructions."""
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], check=True,
                          capture_output=True, text=True).stdout
    wide, name = set(), None
    for line in text.splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if header:
            name = header.group(1)
        elif re.match(r"\s+[0-9a-f]+:\s+(v[a-z]|k(mov|or|and|test|not|shift)|tileload)", line):
            wide.add(name)
    return wide


def main():
    nm, objdump, *objects = sys.argv[1:]
    weak = [weak_functions(nm, path) for path in objects]
    wide = [wide_functions(objdump, path) for path in objects]
    print(f"weak functions: {[len(symbols) for symbols in weak]}")
    if not weak[0] or wide[0]:
        sys.exit(f"the first object is not the baseline: {len(wide[0])} wide functions")
    if not all(wide[1:]):
        sys.exit("a further object has no wide instructions at all")
    failed = False
    for i in range(len(objects)):
        for j in range(i + 1, len(objects)):
            for symbol in sorted(weak[i].keys() & weak[j].keys()):
                # Between two wide units every difference in instructions counts.
                if symbol not in wide[i] | wide[j]:
                    continue
                name = weak[i][symbol]
                ours = "sparq::" in name  # std::vector of a type of ours as well
                failed |= ours
                print(f"{'FAIL' if ours else 'note'}: objects {i} and {j} share {name[:300]}")
    sys.exit("sparq code is shared between instruction sets" if failed else 0)


if __name__ == "__main__":
    main()
