#!/bin/sh
# Sees the engine work on this machine with the small model of this repository: completes a story and
# a function, summarizes, classifies and chats. Installs a software Vulkan driver if there is none.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

cargo build --release --locked
mistral() {
    printf '\n$ mistral'
    for word in "$@"; do printf ' %s' "$word"; done
    printf '\n'
    target/release/mistral "$@" 2>/dev/null
}

echo "Devices:"
target/release/mistral devices

mistral generate "Once upon a time" --max-tokens 120
mistral generate 'def add_seven(x):
    """Return x plus seven."""
' --max-tokens 40

head -n 1 examples/demo-model/heldout/summarize.jsonl | sed 's/^{"text": "//; s/", "summary".*//' > target/demo-text.txt
echo
echo "A text:"
cat target/demo-text.txt
mistral summarize target/demo-text.txt
echo "We lost our tickets and the hotel was dirty. It was a terrible trip." > target/demo-text.txt
echo
echo "Another text:"
cat target/demo-text.txt
mistral classify --labels positive,negative,neutral target/demo-text.txt
printf '\n$ mistral chat\n'
printf 'Hello!\nWho are you?\n' | target/release/mistral chat 2>/dev/null
