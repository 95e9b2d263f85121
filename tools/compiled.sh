#!/usr/bin/env bash
# Builds the package with its translation compiled, for the Python of .venv, and says in which folder it lies: on
# PYTHONPATH it comes before the checkout's own. What was built from these very sources before is taken again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$PWD/.venv/bin/python
sources() { find migrate mappings reports pyproject.toml -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; }
key=$({ "$python" -VV; sources; } | sha256sum | cut -c 1-16)
folder=$PWD/.cache/compiled/$key
if [ ! -d "$folder" ]; then
    echo "compiled: building, which takes two minutes" >&2
    rm -rf .cache/compiled
    mkdir -p .cache/compiled
    temporary=$(mktemp -d .cache/compiled/new.XXXXXX)
    # By way of the source archive: the compiler's files would lie in the checkout otherwise.
    HATCH_BUILD_HOOK_ENABLE_MYPYC=1 "$python" -m build --outdir "$temporary" . > "$temporary/log" 2>&1 ||
        { tail -20 "$temporary/log" >&2; exit 1; }
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$temporary/site" "$temporary"/*.whl >&2
    mv "$temporary/site" "$folder"
    rm -r "$temporary"
fi
echo "$folder"
