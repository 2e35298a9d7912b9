#!/bin/sh
# Sees the engine work on this machine with the small model of this repository: completes a story and
# a function, summarizes, classifies and chats. Installs a software Vulkan driver if there is none.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

cargo build --release --locked

# Shows a command and runs it.
show() {
    printf '\n$ %s\n' "$1"
    sh -c "$1"
}
PATH="${CARGO_TARGET_DIR:-$PWD/target}/release:$PATH"
exec 2>/dev/null

show 'mistral devices'
show 'mistral generate "Once upon a time, there was a little fox named Nora." --max-tokens 120'
show 'printf "def add_seven(x):\n    \"\"\"Return x plus seven.\"\"\"\n" | mistral generate -'
show 'echo "Oscar is coming on Sunday. Noah is waiting for the visit. They will meet in the garden. He was very happy." | mistral summarize -'
show 'echo "We lost our tickets and the hotel was dirty. It was a terrible trip." | mistral classify --labels positive,negative,neutral -'
show 'printf "Hello!\nWho are you?\n" | mistral chat'
