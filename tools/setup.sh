# Sourced by the commands beside it: makes .venv with ventifs and its extra $extra (if any), once for
# every change of pyproject.toml. As root it installs the Debian packages in $packages first. What
# was interrupted is done anew. A failure is one line: what is missing, and what to do.
# Afterwards the clone is the current directory, and $python is the virtual environment's.
set -euo pipefail
umask 022 # tests become other users, who read what is here
unset PYTHONHOME PYTHONPATH
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
python=$PWD/.venv/bin/python
PATH=$PATH:/usr/sbin:/sbin # a user's lacks them; some tools need no root, though

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Installs those of $packages that are missing, where that can be done.
install_packages() {
    local package missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        [ "${missing[*]}" = python3-venv ] || # if that is needed, `find_python` says so
            echo "going on without the Debian packages ${missing[*]}; only root installs them" >&2
        return 0
    fi
    echo "installing Debian packages: ${missing[*]}" >&2
    apt-get -qq update >&2 || true # without a network, what is known already may do
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --no-install-recommends "${missing[@]}" >&2 ||
        fail "apt-get cannot install ${missing[*]} (its reason is above); install them and try again"
}

# A Python that can make virtual environments: 3.11 first, which is what ventifs is made with.
find_python() {
    local name found="" wanted="import sys; sys.exit(sys.version_info < (3, 11))"
    for name in python3.11 python3.12 python3.13 python3.14 python3 /usr/bin/python3; do
        "$name" -c "$wanted" 2>/dev/null || continue
        found=${found:-$name}
        if "$name" -c "import ensurepip, venv" 2>/dev/null; then
            base=$name
            return
        fi
    done
    [ -z "$found" ] ||
        fail "$found cannot make virtual environments; as root: apt-get install python3-venv"
    fail "Python 3.11 or newer is missing; as root: apt-get install python3-venv"
}

# Whether .venv is whole, of this very place, and for this pyproject.toml.
is_set_up() {
    cmp -s pyproject.toml "$stamp" && "$python" -c "" 2>/dev/null &&
        grep -qsF "$python" .venv/bin/ventifs
}

set_up() {
    # A stamp, of whatever age, says that it was whole once.
    if ! compgen -G ".venv/stamp*" >/dev/null || ! "$python" -c "import pip" 2>/dev/null ||
        ! grep -qsF "$python" .venv/bin/ventifs; then
        find_python
        echo "setting up .venv" >&2
        rm -rf .venv || fail "$PWD/.venv cannot be made anew; remove it as the user that made it"
        "$base" -m venv .venv >&2 || fail "$base cannot make $PWD/.venv (its reason is above)"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}" >&2 ||
        fail "pip cannot install what ventifs needs (its reason is above); it needs a package index"
    cp pyproject.toml "$stamp"
}

stamp=.venv/stamp${extra:+-$extra}
install_packages
if ! is_set_up; then
    [ -w . ] || fail "$PWD cannot be written by $(id -un); clone it to a place of your own"
    exec 9<. && flock 9 # the other command may be setting it up
    is_set_up || set_up 9<&-
    exec 9<&-
fi
