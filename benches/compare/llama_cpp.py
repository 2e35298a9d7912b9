"""Times llama.cpp's libraries as llama-bench does: `llama_decode` over token ids, without sampling.

Prints a JSON object: device, and for each test the seconds (and those of processor time) of every repetition
after a warm-up.
Run by compare.py in a process of its own, whose environment chooses the device.
"""

import argparse
import ctypes
import glob
import json
import os
import time

POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t


class Params(ctypes.Structure):
    """`llama_model_params` or `llama_context_params`, whose fields differ between releases: passed by value on the
    stack (x86-64), where more bytes than the callee reads do no harm. Only the first words are set here."""

    _fields_ = [("words", ctypes.c_uint32 * 128)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("pointers", POINTER * 6)]


def load(folder):
    """llama.cpp's functions with their types, by name, and the device that it will use."""
    libraries = [
        ctypes.CDLL(glob.glob(os.path.join(folder, name))[0], mode=ctypes.RTLD_GLOBAL)
        for name in ("libggml-base.so", "libggml.vulkan*.so", "libllama.vulkan*.so")
    ]
    table = {
        "ggml_backend_load_all_from_path": (None, [ctypes.c_char_p]),
        "ggml_backend_dev_get": (POINTER, [SIZE]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [POINTER]),
        "llama_model_default_params": (Params, []),
        "llama_model_load_from_file": (POINTER, [ctypes.c_char_p, Params]),
        "llama_context_default_params": (Params, []),
        "llama_init_from_model": (POINTER, [POINTER, Params]),
        "llama_batch_get_one": (Batch, [POINTER, ctypes.c_int32]),
        "llama_decode": (ctypes.c_int32, [POINTER, Batch]),
        "llama_synchronize": (None, [POINTER]),
        "llama_get_memory": (POINTER, [POINTER]),
        "llama_memory_clear": (None, [POINTER, ctypes.c_bool]),
    }
    functions = {}
    for name, (result, arguments) in table.items():
        function = next(getattr(library, name) for library in libraries if hasattr(library, name))
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    functions["ggml_backend_load_all_from_path"](folder.encode())
    device = functions["ggml_backend_dev_description"](functions["ggml_backend_dev_get"](0)).decode()
    return functions, device


class Llama:
    def __init__(self, functions, path, context, vocab):
        self.functions, self.vocab = functions, vocab
        self.model = self.call("model_load_from_file", path.encode(), self.call("model_default_params"))
        params = self.call("context_default_params")
        params.words[0] = context  # n_ctx; batch sizes stay llama.cpp's own
        self.context = self.call("init_from_model", self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp made no context")

    def call(self, name, *arguments):
        return self.functions["llama_" + name](*arguments)

    def decode(self, tokens):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        if self.call("decode", self.context, self.call("batch_get_one", ids, len(tokens))) != 0:
            raise SystemExit("llama_decode failed")

    def run(self, n_prompt, n_gen):
        """Seconds of one repetition, and of processor time."""
        tokens = [index * 2654435761 % self.vocab for index in range(max(n_prompt, n_gen))]
        self.call("memory_clear", self.call("get_memory", self.context), True)
        start, cpu_start = time.perf_counter(), time.process_time()
        if n_prompt:
            self.decode(tokens)
        else:
            for token in tokens:
                self.decode([token])
                self.call("synchronize", self.context)
        self.call("synchronize", self.context)
        return time.perf_counter() - start, time.process_time() - cpu_start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--tests", default="pp512,tg128")
    args = parser.parse_args()
    functions, device = load(args.folder)
    if args.model is None:
        print(json.dumps({"device": device}))
        return
    tests = [(test[:2], int(test[2:])) for test in args.tests.split(",")]
    llama = Llama(functions, args.model, max(length for _, length in tests) + 64, args.vocab)
    results, cpu = {}, {}
    for kind, length in tests:
        prompt, generated = (length, 0) if kind == "pp" else (0, length)
        llama.run(prompt, min(generated, 1))
        runs = [llama.run(prompt, generated) for _ in range(args.repetitions)]
        results[f"{kind}{length}"], cpu[f"{kind}{length}"] = zip(*runs)
    print(json.dumps({"device": device, "seconds": results, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main()
