# SPDX-License-Identifier: MIT
# Sourced by examples/run.sh, tests/run.sh and .ci/run:
#
#     . "$root/cmake/bootstrap.sh"
#     sparq_require_packages g++ cmake ninja-build
#
# Installs those of the named Debian packages that are missing: as root, or through sudo.
# Where neither is possible the missing packages are named and the script ends. With
# SPARQ_NO_INSTALL=1 nothing is checked: for systems with other packages.

sparq_package_is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

sparq_require_packages() {
    [ "${SPARQ_NO_INSTALL:-0}" != 1 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "sparq: not a Debian system. Needed, by Debian's names: $*" >&2
        echo "sparq: with all of them present, run again with SPARQ_NO_INSTALL=1." >&2
        exit 1
    fi
    sparq_missing=
    for sparq_package in "$@"; do
        sparq_package_is_installed "$sparq_package" || sparq_missing="$sparq_missing $sparq_package"
    done
    [ -n "$sparq_missing" ] || return 0

    if [ "$(id -u)" = 0 ]; then
        sparq_as_root=env
    elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sparq_as_root="sudo env"
    else
        echo "sparq: these packages are missing, and only root or a user with sudo can install them:" >&2
        echo "    apt-get install$sparq_missing" >&2
        exit 1
    fi
    echo "sparq: installing$sparq_missing" >&2
    sparq_log=$(mktemp)
    # Unquoted on purpose: both are lists of words.
    if ! $sparq_as_root DEBIAN_FRONTEND=noninteractive sh -c '
            apt-get -q -o DPkg::Lock::Timeout=300 update &&
            apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"' \
            sh $sparq_missing >"$sparq_log" 2>&1; then
        tail -n 30 "$sparq_log" >&2
        rm -f "$sparq_log"
        echo "sparq: apt-get could not install$sparq_missing" >&2
        exit 1
    fi
    rm -f "$sparq_log"
}
