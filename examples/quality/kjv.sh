#!/bin/sh
# SPDX-License-Identifier: MIT
# kjv.sh: prints the King James Bible (public domain) of Debian's package bible-kjv: verses
# joined by a space and without their numbers, a line for each chapter.
bible -l 99999 -f gen1:1-rev22:21 </dev/null 2>/dev/null | awk '{
    chapter = $1
    sub(/:.*/, "", chapter)
    sub(/^[^ ]* +/, "")
    printf "%s%s", NR == 1 ? "" : chapter == last ? " " : "\n", $0
    last = chapter
} END { print "" }'
