"""Writes vocabularies as GGUF files without weights, and reads them with llama.cpp's library."""

import base64
import ctypes
import glob
import json
import os

import gguf

POINTER = ctypes.c_void_p


class Params(ctypes.Structure):
    """`llama_model_params`, whose fields differ between releases: passed by value on the stack (x86-64), where more
    bytes than the callee reads do no harm."""

    _fields_ = [("bytes", ctypes.c_uint8 * 512)]


class Llama:
    """libllama in the folder of its libraries."""

    def __init__(self, folder):
        self.libraries = [ctypes.CDLL(glob.glob(os.path.join(folder, name))[0], mode=ctypes.RTLD_GLOBAL) for name in ("libggml-base.so", "libggml.*.so", "libllama.*.so")]
        table = {
            "llama_log_set": (None, [POINTER, POINTER]),
            "ggml_backend_load_all_from_path": (None, [ctypes.c_char_p]),
            "llama_model_default_params": (Params, []),
            "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
            "llama_model_get_vocab": (POINTER, [POINTER]),
            "llama_tokenize": (ctypes.c_int32, [POINTER, ctypes.c_char_p, ctypes.c_int32, POINTER, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]),
        }
        for name, (result, arguments) in table.items():
            function = next(getattr(library, name) for library in self.libraries if hasattr(library, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.ggml_backend_load_all_from_path(str(folder).encode())
        self.silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)(lambda *_: None)
        self.llama_log_set(ctypes.cast(self.silence, POINTER), None)

    def vocabulary(self, path):
        params = self.llama_model_default_params()
        params.bytes[VOCAB_ONLY] = 1
        model = self.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise SystemExit(f"llama.cpp does not load {path}")
        return Vocabulary(self, self.llama_model_get_vocab(model))


# The place of `vocab_only` in `llama_model_params` of the release that benches/compare/ fetches.
VOCAB_ONLY = 72


class Vocabulary:
    def __init__(self, llama, vocabulary):
        self.llama, self.vocabulary = llama, vocabulary

    def tokenize(self, text, parse_special):
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 16))()
        count = self.llama.llama_tokenize(self.vocabulary, data, len(data), ids, len(ids), False, parse_special)
        assert count >= 0
        return list(ids[:count])


def write(path, fields, arrays, tokens, types):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(16)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for add, value in [*fields.items(), *arrays.items()]:
        getattr(writer, "add_" + add)(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_sentencepiece(path, file, add_space_prefix=None):
    """A SentencePiece model as llama.cpp's converter writes it."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(str(file))
    ids = range(model.vocab_size())
    types = [gguf.TokenType.UNKNOWN if model.is_unknown(i) else gguf.TokenType.CONTROL if model.is_control(i) else gguf.TokenType.BYTE if model.is_byte(i) else gguf.TokenType.NORMAL for i in ids]
    types = [gguf.TokenType.USER_DEFINED if model.id_to_piece(i).startswith(("[REF", "[/REF")) else kind for i, kind in zip(ids, types)]
    fields = {"tokenizer_model": "llama", "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0}
    if add_space_prefix is not None:
        fields["add_space_prefix"] = add_space_prefix
    write(path, fields, {"token_scores": [model.get_score(i) for i in ids]}, [model.id_to_piece(i) for i in ids], types)


def stand_ins():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + at) for at, byte in enumerate(others)}}


def write_tekken(path, file, pre):
    """A tekken.json as llama.cpp's converter writes it: merges found by merging each token with lower ranks."""
    data = json.loads(open(file, encoding="utf-8").read())
    control = data["config"]["default_num_special_tokens"]
    vocab = [base64.b64decode(token["token_bytes"]) for token in data["vocab"][: data["config"]["default_vocab_size"] - control]]
    ranks = {token: rank for rank, token in enumerate(vocab)}
    letters = stand_ins()
    spell = lambda token: "".join(letters[byte] for byte in token)

    def halves(token, rank):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
            if best[0] >= rank:
                break
            parts[best[1] : best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
        return parts

    merges = []
    for rank, token in enumerate(vocab):
        parts = halves(token, rank) if len(token) > 1 else []
        if len(parts) == 2:
            merges.append(" ".join(map(spell, parts)))
    named = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    special = named + [f"<SPECIAL_{i}>" for i in range(len(named), control)]
    types = [gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * len(vocab)
    # One that stands for itself in any text.
    types[control - 1] = gguf.TokenType.USER_DEFINED
    fields = {"tokenizer_model": "gpt2", "tokenizer_pre": pre, "bos_token_id": 1, "eos_token_id": 2}
    write(path, fields, {"token_merges": merges}, special + [spell(token) for token in vocab], types)
