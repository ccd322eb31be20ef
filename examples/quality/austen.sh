#!/bin/sh
# SPDX-License-Identifier: MIT
# austen.sh: prints Jane Austen's six novels (public domain) of Debian's package
# r-cran-janeaustenr, a line for each paragraph.
Rscript --vanilla -e 'writeLines(janeaustenr::austen_books()$text)' |
    awk 'BEGIN { RS = "" } { gsub(/[ \n]+/, " "); print }'
