"""Compares `mistral tokenize` and `detokenize` with the libraries that tokenizers' files are made for, on the real files.

    python compare.py MISTRAL [--texts 4000] [--chats 1500] [--json FOLDER …] [--llama FOLDER]

Files: those in mistral-common's wheel (SentencePiece and tekken, against sentencepiece and mistral-common, conversations
too), every FOLDER with a tokenizer.json (against `tokenizers`), and with llama.cpp's libraries in --llama the same
vocabularies as GGUF files (against libllama). Prints a line for each with the number of inputs; exits with 1 at the
first that differ. sh tests/run.sh --tokenizers installs what it needs.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import inputs

warnings.filterwarnings("ignore")


def lines(mistral, arguments, values):
    """What the command prints for each value."""
    text = "".join(json.dumps(value) + "\n" for value in values)
    command = [mistral, *map(str, arguments), "--lines"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


failures = 0


def check(name, values, found, expected):
    global failures
    differ = [index for index in range(len(values)) if found[index] != expected[index]]
    print(f"{name}: {len(values)} compared, {len(differ)} differ", flush=True)
    for index in differ[:3]:
        print(f"  {values[index]!r:.300}\n    expected {str(expected[index])[:300]}\n    found    {str(found[index])[:300]}")
    failures += len(differ)


def spelled_ids(vocabulary, seed=5):
    """Sequences of any ids, byte tokens in every state of disorder among them."""
    import random

    random.seed(seed)
    return [[random.randrange(random.choice([300, 1300, vocabulary])) for _ in range(random.randint(0, 12))] for _ in range(3000)]


def mistral_files(mistral, folder, texts, chats):
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    import mistral_common

    for file in sorted((pathlib.Path(mistral_common.__file__).parent / "data").iterdir()):
        path = pathlib.Path(folder) / file.name
        shutil.copy(file, path)
        reference = MistralTokenizer.from_file(str(path))
        inner = reference.instruct_tokenizer.tokenizer
        source = ["--model", path]
        check(f"{file.name} ids", texts, lines(mistral, ["tokenize", *source], texts), [inner.encode(text, False, False) for text in texts])
        ids = spelled_ids(inner.n_words)
        check(f"{file.name} texts", ids, lines(mistral, ["detokenize", *source], ids), [inner.decode(value) for value in ids])
        version = inner.version.value
        requests, expected = [], []
        refused = 0
        for request in inputs.conversations(chats, version):
            try:
                encoded = reference.encode_chat_completion(ChatCompletionRequest.model_validate(request)).tokens
            except Exception:
                # Not to be encoded here either.
                if subprocess_refuses(mistral, source, request, refused):
                    refused += 1
                    continue
                encoded = "refused"
            requests.append(request)
            expected.append(encoded)
        check(f"{file.name} conversations ({version}; {refused} more are refused by both)", requests, lines(mistral, ["tokenize", *source, "--chat"], requests), expected)


def subprocess_refuses(mistral, source, request, done):
    """Whether the command refuses a conversation; the first 40 are tried."""
    if done >= 40:
        return True
    command = [mistral, "tokenize", "--chat", *map(str, source), json.dumps(request)]
    return subprocess.run(command, capture_output=True).returncode == 2


def json_folder(mistral, folder, texts):
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    source = ["--model", folder]
    for name, plain in ((" ids", True), (" ids with control tokens", False)):
        reference.encode_special_tokens = plain
        options = [] if plain else ["--special"]
        found = lines(mistral, ["tokenize", *options, *source], texts)
        check(f"{folder}{name}", texts, found, [reference.encode(text, add_special_tokens=False).ids for text in texts])
    found = lines(mistral, ["tokenize", *source], texts)
    check(f"{folder} texts", texts, lines(mistral, ["detokenize", *source], found), [reference.decode(ids) for ids in found])


def gguf_files(mistral, folder, llama, texts):
    import mistral_common
    from gguf_vocabularies import Llama, write_sentencepiece, write_tekken

    data = pathlib.Path(mistral_common.__file__).parent / "data"
    files = [(data / "tokenizer.model.v1", write_sentencepiece, {}), (data / "mistral_instruct_tokenizer_240323.model.v3", write_sentencepiece, {})]
    files += [(data / "tekken_240718.json", write_tekken, {"pre": pre}) for pre in ("tekken", "llama-bpe", "gpt-2")]
    files.append((data / "tokenizer.model.v1", write_sentencepiece, {"add_space_prefix": False}))
    library = Llama(llama)
    for file, write, options in files:
        path = os.path.join(folder, "-".join([file.name, *map(str, options.values())]) + ".gguf")
        write(path, file, **options)
        vocabulary = library.vocabulary(path)
        name = f"GGUF of {file.name} {options or ''}"
        check(f"{name} ids", texts, lines(mistral, ["tokenize", "--model", path], texts), [vocabulary.tokenize(text, False) for text in texts])
        found = lines(mistral, ["tokenize", "--special", "--model", path], texts)
        check(f"{name} ids with control tokens", texts, found, [vocabulary.tokenize(text, True) for text in texts])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mistral")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--chats", type=int, default=1500)
    parser.add_argument("--json", action="append", default=[])
    parser.add_argument("--llama")
    args = parser.parse_args()
    texts = inputs.texts(args.texts)
    with tempfile.TemporaryDirectory() as folder:
        if args.llama:
            gguf_files(args.mistral, folder, args.llama, texts)
        for json_file in args.json:
            json_folder(args.mistral, json_file, texts)
        mistral_files(args.mistral, folder, texts, args.chats)
    sys.exit(failures > 0)


main()
