#!/bin/sh
# Says in one line what this machine lacks, before any work is done; installs python3 and its venv where it may.
# Called by the Makefile, before there is anything but a shell: `preflight.sh user` for what needs no root,
# `preflight.sh root` for what makes network namespaces.
set -eu

fail() {
    echo "tortie: $*" >&2
    exit 1
}

# What is tested; of the features used, the youngest (pidfd, overlay mounts in a namespace) are older than that.
OLDEST_KERNEL=5.15

older() { # older A B: is version A before B?
    [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

[ "$(uname -s)" = Linux ] || fail "this needs Linux, and here is $(uname -s)"

if [ "$1" = root ]; then
    kernel=$(uname -r | cut -d- -f1)
    older "$kernel" "$OLDEST_KERNEL" && fail "the kernel is $kernel; $OLDEST_KERNEL or newer is needed"
    [ "$(id -u)" = 0 ] || fail "this makes network namespaces and needs root: sudo make ${2:-lab}"
    command -v unshare >/dev/null || fail "there is no program unshare; install what Debian calls util-linux"
    unshare --net true 2>/dev/null || fail "this machine does not let root make network namespaces (a container without CAP_SYS_ADMIN?)"
    unshare --mount --pid --fork true 2>/dev/null || fail "this machine does not let root make mount and PID namespaces"
fi

new_enough() {
    command -v "$PYTHON" >/dev/null && "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}
venv_there() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null
}

if ! new_enough || ! venv_there; then
    command -v apt-get >/dev/null || fail "Python 3.11 or newer with its venv module is needed, and there is no apt-get to install it: set PYTHON=/path/to/python3"
    [ "$(id -u)" = 0 ] || fail "Python 3.11 or newer with its venv module is needed: sudo apt-get install python3-venv"
    echo "  installing python3 and python3-venv with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null || fail "apt-get update failed"
    apt-get -qq install --yes --no-install-recommends python3 python3-venv >/dev/null || fail "apt-get could not install python3-venv"
    new_enough || fail "$PYTHON is older than 3.11; set PYTHON=/path/to/a/newer/python3"
    venv_there || fail "$PYTHON has no venv module; set PYTHON=/path/to/python3"
fi
