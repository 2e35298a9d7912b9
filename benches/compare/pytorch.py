"""Times PyTorch with transformers in bf16 on a CUDA device: random weights of the shape given as JSON.

Prints the same JSON object as llama_cpp.py.
"""

import argparse
import json
import time

import torch
from transformers import MistralConfig, MistralForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", type=json.loads)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--tests", default="pp512,tg128")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "sliding_window", "rms_norm_eps", "rope_theta")
    config = MistralConfig(**{key: args.shape[key] for key in keys})
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = MistralForCausalLM(config).eval()

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def run(kind, length):
        tokens = torch.arange(length, device=args.device)[None] * 2654435761 % config.vocab_size
        wait()
        start = time.perf_counter()
        if kind == "pp":
            model(tokens, logits_to_keep=1)
        else:
            cache = None
            for index in range(length):
                output = model(tokens[:, index : index + 1], past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                output.logits.argmax(-1).item()
        wait()
        return time.perf_counter() - start

    results = {}
    for test in args.tests.split(","):
        kind, length = test[:2], int(test[2:])
        run(kind, length)
        results[test] = [run(kind, length) for _ in range(args.repetitions)]
    device = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(json.dumps({"device": device, "seconds": results}))


if __name__ == "__main__":
    main()
