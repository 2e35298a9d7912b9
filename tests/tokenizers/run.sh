#!/bin/sh
# Compares tokenizers and conversations with the libraries that their files are made for, on the real files of
# mistral-common's wheel, and on folders with a tokenizer.json:
#
#   sh tests/run.sh --tokenizers [FOLDER…]
#
# Needs python3. The libraries come from PyPI and go to a cache folder outside of the repository. With LLAMA, the folder of
# llama.cpp's libraries (benches/compare/ fetches them), the vocabularies of GGUF files are compared too.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mistral-wgpu/tokenizers
python=${PYTHON:-$cache/bin/python}
if [ ! -x "$python" ]; then
    python3 -m venv "$cache"
    "$cache/bin/pip" -q install mistral-common==1.13.1 sentencepiece==0.2.3 tokenizers==0.23.3 gguf==0.19.0
fi
if [ -z "${MISTRAL:-}" ]; then
    cargo build --release --locked --bin mistral
    MISTRAL=${CARGO_TARGET_DIR:-target}/release/mistral
fi
set -- "$MISTRAL" ${LLAMA:+--llama "$LLAMA"} $(for folder; do printf -- '--json %s ' "$folder"; done)
exec "$python" "$here/compare.py" "$@"
