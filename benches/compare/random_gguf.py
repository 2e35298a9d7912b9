"""Writes a llama model of a given shape with random weights as a GGUF file, as llama.cpp reads it.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Matrices are all in one block format, the output
projection too, and the file has no vocabulary but its size: enough to run token ids.
"""

import os
import random
import struct

ALIGNMENT = 32

# name: number of the type in GGML, of the file type in llama.cpp, bytes of 32 weights after their f16 scale
FORMATS = {"q4_0": (2, 2, 16), "q8_0": (8, 7, 32)}
F32 = 0
BLOCK = 32

# What a metadata value is.
U32, FLOAT, STRING = 4, 6, 8


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    packed = {U32: lambda: struct.pack("<I", value), FLOAT: lambda: struct.pack("<f", value), STRING: lambda: text(value)}
    return text(key) + struct.pack("<I", kind) + packed[kind]()


def metadata(shape, format):
    prefix = "llama."
    return [
        entry("general.architecture", STRING, "llama"),
        entry("general.alignment", U32, ALIGNMENT),
        entry("general.file_type", U32, FORMATS[format][1]),
        entry(prefix + "vocab_size", U32, shape["vocab_size"]),
        entry(prefix + "context_length", U32, shape["max_position_embeddings"]),
        entry(prefix + "embedding_length", U32, shape["hidden_size"]),
        entry(prefix + "block_count", U32, shape["num_hidden_layers"]),
        entry(prefix + "feed_forward_length", U32, shape["intermediate_size"]),
        entry(prefix + "attention.head_count", U32, shape["num_attention_heads"]),
        entry(prefix + "attention.head_count_kv", U32, shape["num_key_value_heads"]),
        entry(prefix + "attention.layer_norm_rms_epsilon", FLOAT, shape["rms_norm_eps"]),
        entry(prefix + "rope.dimension_count", U32, shape["head_dim"]),
        entry(prefix + "rope.freq_base", FLOAT, shape["rope_theta"]),
        entry("tokenizer.ggml.model", STRING, "none"),
    ]


def tensors(shape):
    """Name, outputs and inputs of every matrix; outputs None: a norm."""
    hidden, intermediate = shape["hidden_size"], shape["intermediate_size"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    yield "token_embd.weight", shape["vocab_size"], hidden
    for layer in range(shape["num_hidden_layers"]):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", None, hidden
        yield name + "attn_q.weight", queries, hidden
        yield name + "attn_k.weight", keys, hidden
        yield name + "attn_v.weight", keys, hidden
        yield name + "attn_output.weight", hidden, queries
        yield name + "ffn_norm.weight", None, hidden
        yield name + "ffn_gate.weight", intermediate, hidden
        yield name + "ffn_up.weight", intermediate, hidden
        yield name + "ffn_down.weight", hidden, intermediate
    yield "output_norm.weight", None, hidden
    yield "output.weight", shape["vocab_size"], hidden


def random_blocks(format, count, seed):
    """`count` blocks with one scale, such that weights have a standard deviation of about 0.02."""
    code_bytes = FORMATS[format][2]
    levels = 1 << (8 * code_bytes // BLOCK)
    scale = struct.pack("<e", 0.02 / (levels / 12**0.5))
    generator = random.Random(seed)
    return b"".join(scale + generator.randbytes(code_bytes) for _ in range(count))


def write(path, shape, format):
    """Writes the file unless it is there."""
    if os.path.exists(path):
        return
    kind, _, code_bytes = FORMATS[format]
    block_bytes = 2 + code_bytes
    all_tensors = list(tensors(shape))
    infos, sizes, offset = [], [], 0
    for name, outputs, inputs in all_tensors:
        dimensions = [inputs] if outputs is None else [inputs, outputs]
        infos.append(text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
                     + struct.pack("<IQ", F32 if outputs is None else kind, offset))
        sizes.append(4 * inputs if outputs is None else outputs * inputs // BLOCK * block_bytes)
        offset += -(-sizes[-1] // ALIGNMENT) * ALIGNMENT
    entries = metadata(shape, format)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)) + b"".join(entries + infos)
    # Every matrix is a stretch of the same blocks over and over, which no kernel can tell.
    pool = random_blocks(format, 1 << 16, 0)
    with open(path + ".part", "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for (_, outputs, inputs), size in zip(all_tensors, sizes):
            if outputs is None:
                file.write(struct.pack("<f", 1.0) * inputs)
            else:
                for _ in range(size // len(pool)):
                    file.write(pool)
                file.write(pool[:size % len(pool)])
            file.write(bytes(-size % ALIGNMENT))
    os.replace(path + ".part", path)
