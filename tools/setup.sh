# Sourced by the commands beside it: makes .venv with ventifs and its extra $extra (if any), once for
# every change of pyproject.toml. As root it installs the Debian packages in $packages first.
# Afterwards $python is the virtual environment's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$PWD/.venv/bin/python

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing Debian packages: ${missing[*]}" >&2
        apt-get -qq update >&2
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >&2
    else
        echo "not root: going on without the Debian packages ${missing[*]}" >&2
    fi
fi

stamp=.venv/stamp${extra:+-$extra}
if ! cmp -s pyproject.toml "$stamp"; then
    echo "setting up .venv" >&2
    [ -x "$python" ] || "$(command -v python3.11 || command -v python3)" -m venv .venv
    "$python" -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}" >&2
    cp pyproject.toml "$stamp"
fi
