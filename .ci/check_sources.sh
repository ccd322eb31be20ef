#!/bin/sh
# SPDX-License-Identifier: MIT
# Rules about the text of the sources that no compiler knows. Names the places where one is
# broken, and fails when there is one: check_sources.sh [ROOT]
set -u
cd "${1:-$(dirname "$0")/..}" || exit 2
failed=0

# rule MEANING FUNCTION: the function prints the places that break the rule.
rule() {
    places=$($2)
    [ -n "$places" ] || return 0
    failed=1
    printf '%s:\n' "$1"
    printf '%s\n' "$places" | sed 's/^/    /'
}

headers=$(find include -name '*.hpp' | sort)
[ -n "$headers" ] || { echo "no headers in $(pwd)/include"; exit 2; }

long_headers() { wc -l $headers | awk '$2 != "total" && $1 > 300'; }

vector_code() {
    grep -nE 'xsimd|<[a-z0-9]*intrin\.h>|<arm_[a-z0-9]*\.h>|\b_mm[0-9]*_|\b__m(128|256|512)|\bv[a-z0-9_]+q?_[fsu](8|16|32|64)\b|__builtin_ia32' \
        $headers | grep -v '^include/sparq/detail/'
}

unlicensed() {
    find include cmake tests examples bench -name '*.hpp' -o -name '*.cpp' | while read -r source; do
        head -n 1 "$source" | grep -qx '// SPDX-License-Identifier: MIT' || echo "$source"
    done
}

unguarded() { grep -LE '^#pragma once$' $headers; }

# version.hpp says the version three times, CHANGELOG.md's newest entry once more.
version_part() {
    sed -n "s/^#define SPARQ_VERSION_$1 *\"*\([0-9.]*\)\"*$/\1/p" include/sparq/version.hpp
}
version_copies() {
    version=$(version_part MAJOR).$(version_part MINOR).$(version_part PATCH)
    space=v$(version_part MAJOR)_$(version_part MINOR)
    changelog=$(sed -n 's/^## \[*\([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
    [ "$(version_part STRING)" = "$version" ] ||
        echo "SPARQ_VERSION_STRING is $(version_part STRING), the numbers say $version"
    grep -q "inline namespace $space {" include/sparq/version.hpp ||
        echo "version.hpp has no inline namespace $space"
    [ "$changelog" = "$version" ] || echo "CHANGELOG.md begins with '$changelog', not $version"
}

rule "headers of more than 300 lines" long_headers
rule "xsimd or intrinsics outside include/sparq/detail" vector_code
rule "sources that do not begin with the license line" unlicensed
rule "headers without #pragma once" unguarded
rule "copies of the version that differ" version_copies
exit $failed
