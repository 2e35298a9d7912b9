#!/usr/bin/env python3
"""Train the demo model on the corpus of corpus.py and export it for inference.

    python train.py --data DIR --out . --minutes 36

The first run trains the tokenizer and writes the configuration files; then the
model trains for the given wall-clock time, and each validation that is no worse
exports model.safetensors (f16). `--resume` continues from the last checkpoint.

The model below is MistralForCausalLM written out plainly: it trains on packed
rows with a block-diagonal sliding-window mask, and its parameters carry the
names that the export needs. Each worker is a process with one thread; they
average their gradients after every step.
"""

import argparse
import json
import math
import os
import random
import re
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import nn

CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
BOS, EOS, INST_END = 1, 2, 4

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 1792,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "sliding_window": 256,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float16",
}

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, with an optional system message first.') }}
    {%- endif %}
{%- endfor %}
"""

# How much one answer token of each task counts.
WEIGHTS = {"summary": 1.0, "classify": 2.0, "chat": 1.0, "code": 1.0, "story": 0.15}


# -- tokenizer ---------------------------------------------------------------------


def train_tokenizer(texts):
    """A BPE with byte fallback whose JSON has the sections of Mistral's own tokenizer.

    Merges are learned inside words, single digits and runs of spaces; newlines
    are left to the byte tokens. The exported tokenizer does not split at all:
    the merges alone keep words apart.
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\n|\[/?INST\]|</?s>"), "removed"),
        pre_tokenizers.Split(Regex(r"▁▁+|▁?[A-Za-z]+|▁?[0-9]|▁?[^A-Za-z0-9▁]|▁"), "isolated"),
    ])
    special = CONTROL + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"], special_tokens=special, show_progress=False)
    bpe.train_from_iterator((text.replace(" ", "▁") for text in texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    assert len(model["vocab"]) == CONFIG["vocab_size"]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    bos_b = {"SpecialToken": {"id": "<s>", "type_id": 1}}
    sequence, sequence_b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, token in enumerate(CONTROL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, sequence],
            "pair": [bos, sequence, bos_b, sequence_b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": model,
    }


def write_configuration(out, texts):
    def dump(name, value):
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    dump("tokenizer.json", train_tokenizer(texts))
    dump("config.json", CONFIG)
    dump("generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "do_sample": False})
    dump("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    })
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


# -- documents ---------------------------------------------------------------------


def scored_spans(task, text):
    """Character spans of the answers: what the model has to write itself."""
    if text.startswith("<s>"):
        return [m.span(1) for m in re.finditer(r"\[/INST\](.*?</s>)", text, re.S)]
    if task == "code":
        return [m.span(1) for m in re.finditer(r'"""\n(.*?\n)(?=\n|$)', text, re.S)]
    return [(0, len(text))]


def encode_documents(tokenizer, path, part=0, parts=1):
    """One part of a file as (task, ids, weights); weights[i] counts the prediction of ids[i]."""
    lines = open(path, encoding="utf-8").readlines()[part::parts]
    rows = [json.loads(line) for line in lines]
    documents = []
    for start in range(0, len(rows), 10_000):
        chunk = rows[start:start + 10_000]
        encodings = tokenizer.encode_batch([row["text"] for row in chunk], add_special_tokens=False)
        for row, encoding in zip(chunk, encodings):
            ids, weights = encoding.ids, [0.0] * len(encoding.ids)
            for first, last in scored_spans(row["task"], row["text"]):
                for i, (a, b) in enumerate(encoding.offsets):
                    if first <= a < last:
                        weights[i] = WEIGHTS[row["task"]]
            if ids[0] != BOS:
                ids = [BOS, *ids, EOS]
                weights = [0.0, *weights, WEIGHTS[row["task"]]]
            documents.append((row["task"], ids, weights))
    return documents


def copy_document(rng):
    """Random tokens, then the same again: teaches the copying that summaries need."""
    ids = [rng.randrange(len(CONTROL) + 256, CONFIG["vocab_size"]) for _ in range(rng.randint(4, 40))]
    return "copy", [BOS, *ids, INST_END, *ids, EOS], [0.0] * (len(ids) + 2) + [1.0] * (len(ids) + 1)


def pack(documents, rows, width):
    """Fill `rows` rows of `width` tokens from an iterator of documents, first fit."""
    packed, space, misses = [[] for _ in range(rows)], [width] * rows, 0
    while misses < 4:
        document = next(documents)
        for i in range(rows):
            if len(document[1]) <= space[i]:
                packed[i].append(document)
                space[i] -= len(document[1])
                break
        else:
            misses += 1
    return packed


def tensors(packed, width):
    """Token ids, document numbers, and the (position, target, weight) triples to score."""
    ids = torch.full((len(packed), width), EOS)
    owner = torch.full((len(packed), width), -1)
    where, target, weight = [], [], []
    for r, row in enumerate(packed):
        start = 0
        for d, (_, tokens, weights) in enumerate(row):
            ids[r, start:start + len(tokens)] = torch.tensor(tokens)
            owner[r, start:start + len(tokens)] = d
            for i in range(1, len(tokens)):
                if weights[i]:
                    where.append(r * width + start + i - 1)
                    target.append(tokens[i])
                    weight.append(weights[i])
            start += len(tokens)
    return ids, owner, torch.tensor(where), torch.tensor(target), torch.tensor(weight)


# -- model -------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden, kv = c["hidden_size"], c["num_key_value_heads"] * c["head_dim"]
        inner, width = c["num_attention_heads"] * c["head_dim"], c["intermediate_size"]
        self.input_layernorm = nn.RMSNorm(hidden, c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(hidden, c["rms_norm_eps"])
        self.self_attn = nn.ModuleDict({
            "q_proj": nn.Linear(hidden, inner, bias=False), "k_proj": nn.Linear(hidden, kv, bias=False),
            "v_proj": nn.Linear(hidden, kv, bias=False), "o_proj": nn.Linear(inner, hidden, bias=False),
        })
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(hidden, width, bias=False), "up_proj": nn.Linear(hidden, width, bias=False),
            "down_proj": nn.Linear(width, hidden, bias=False),
        })


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Mistral(nn.Module):
    """The parameters live under `model.` and `lm_head.`, as in the published checkpoints."""

    def __init__(self, c, dtype=torch.float32):
        super().__init__()
        self.c, self.dtype = c, dtype
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                scale = 1 / math.sqrt(2 * c["num_hidden_layers"]) if "o_proj" in name or "down_proj" in name else 1
                nn.init.normal_(p, std=scale / math.sqrt(p.shape[1]))
        # Embeddings as large as what the layers add, and a head aligned with them: copying starts easy.
        nn.init.normal_(self.model.embed_tokens.weight, std=1.0)
        self.lm_head.weight.data.copy_(0.02 * self.model.embed_tokens.weight.data)
        angles = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angles = torch.arange(c["max_position_embeddings"])[:, None] * angles
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def linear(self, x, *weights):
        return F.linear(x, torch.cat(weights).to(self.dtype) if len(weights) > 1 else weights[0].to(self.dtype))

    def forward(self, ids, owner):
        """Final normed states; tokens attend inside their document and the window."""
        c = self.c
        batch, length = ids.shape
        heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        cos, sin = self.cos[:length].to(self.dtype), self.sin[:length].to(self.dtype)
        at = torch.arange(length)
        distance = at[:, None] - at[None, :]
        visible = (distance >= 0) & (distance < c["sliding_window"]) & (owner[:, :, None] == owner[:, None, :])
        mask = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(~visible, float("-inf"))[:, None]
        h = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            attn, mlp = layer.self_attn, layer.mlp
            x = layer.input_layernorm(h).to(self.dtype)
            qkv = self.linear(x, attn["q_proj"].weight, attn["k_proj"].weight, attn["v_proj"].weight)
            qkv = qkv.view(batch, length, heads + 2 * kv, dim).transpose(1, 2)
            qk = rotate(qkv[:, :heads + kv], cos, sin)
            k = qk[:, heads:].repeat_interleave(heads // kv, 1)
            v = qkv[:, heads + kv:].repeat_interleave(heads // kv, 1)
            x = F.scaled_dot_product_attention(qk[:, :heads], k, v, attn_mask=mask)
            h = h + self.linear(x.transpose(1, 2).reshape(batch, length, heads * dim), attn["o_proj"].weight)
            x = layer.post_attention_layernorm(h).to(self.dtype)
            gate, up = self.linear(x, mlp["gate_proj"].weight, mlp["up_proj"].weight).chunk(2, dim=-1)
            h = h + self.linear(F.silu(gate) * up, mlp["down_proj"].weight)
        return self.model.norm(h)

    def logits(self, ids, owner, where):
        return self.lm_head(self(ids, owner).flatten(0, 1)[where])


# -- optimiser ---------------------------------------------------------------------


def sum_over_workers(tensors):
    """Replace each tensor by its sum over the workers, in one exchange."""
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for t, total in zip(tensors, flat.split([t.numel() for t in tensors])):
        t.copy_(total.view_as(t))


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix.

    The workers share the matrices among them and exchange the results.
    """

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = []
            for i, p in enumerate(group["params"]):
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.lerp_(p.grad, 1 - group["momentum"])
                if i % dist.get_world_size() == dist.get_rank():
                    updates.append(self.orthogonalize(p.grad.lerp(velocity, group["momentum"])))
                else:
                    updates.append(torch.zeros_like(p))
            sum_over_workers(updates)
            for p, update in zip(group["params"], updates):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)

    @staticmethod
    def orthogonalize(g):
        """Five Newton-Schulz iterations with Jordan's quintic coefficients."""
        x = (g / (g.norm() + 1e-7)).bfloat16()
        wide = x.shape[0] <= x.shape[1]
        x = x if wide else x.T
        for _ in range(5):
            s = x @ x.T
            x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
        return (x if wide else x.T).float()


# -- training ----------------------------------------------------------------------


def schedule(progress, step):
    """Warm up for 100 steps, hold until 30 % of the time, then go down to 2 %."""
    return min(1.0, (step + 1) / 100) * min(1.0, 1 - 0.98 * (progress - 0.3) / 0.7)


@torch.no_grad()
def validate(model, documents, width):
    """Share of documents per task whose every answer token is the most likely one."""
    right, total = {}, {}
    rows = []
    for document in documents:
        if rows and sum(len(d[1]) for d in rows[-1]) + len(document[1]) <= width:
            rows[-1].append(document)
        else:
            rows.append([document])
    for row in rows:
        ids, owner, where, target, _ = tensors([row], width)
        hits = (model.logits(ids, owner, where).argmax(-1) == target).tolist()
        for task, _, weights in row:
            n = sum(w > 0 for w in weights)
            right[task] = right.get(task, 0) + all(hits[:n])
            total[task] = total.get(task, 0) + 1
            hits = hits[n:]
    return {task: right[task] / total[task] for task in sorted(total)}


def replace(path, write):
    """Write through a temporary file, so that `path` is always whole."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def export(model, out):
    weights = {name: p.detach().half().contiguous() for name, p in model.state_dict().items()}
    replace(out / "model.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory written by corpus.py")
    parser.add_argument("--out", type=Path, required=True, help="directory of the exported model")
    parser.add_argument("--minutes", type=float, default=36, help="length of the whole training")
    parser.add_argument("--resume", action="store_true", help="continue from DATA/checkpoint.pt")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=6, help="rows of 256 tokens in a step of one worker")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "tokenizer.json").exists():
        texts = (json.loads(line)["text"] for line in open(args.data / "train.jsonl", encoding="utf-8"))
        write_configuration(args.out, [text for _, text in zip(range(40_000), texts)])
    torch.multiprocessing.spawn(work, (args,), nprocs=args.workers)


def work(rank, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=rank, world_size=args.workers)
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    documents = encode_documents(tokenizer, args.data / "train.jsonl", rank, args.workers)
    validation = [d for d in encode_documents(tokenizer, args.data / "valid.jsonl")
                  if d[0] != "story" and len(d[1]) <= 256]
    short = [d for d in documents if len(d[1]) <= 256]
    long = [d for d in documents if 256 < len(d[1]) <= CONFIG["max_position_embeddings"]]

    torch.manual_seed(0)
    model = Mistral(CONFIG, torch.bfloat16)
    params = list(model.parameters())
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    embedding = model.model.embed_tokens.weight
    others = [p for p in params if p is not embedding and all(p is not m for m in matrices)]
    optimizers = [Muon(matrices, lr=0.02),
                  torch.optim.AdamW([{"params": [embedding], "lr": 0.02}, {"params": others, "lr": 3e-3}],
                                    betas=(0.9, 0.95), weight_decay=0.0)]
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    step, elapsed, best = 0, 0.0, 0.0
    if args.resume:
        saved = torch.load(args.data / "checkpoint.pt")
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        step, elapsed = saved["step"], saved["elapsed"]
    if rank == 0:
        print(f"{sum(p.numel() for p in params)} parameters; worker 0 of {args.workers} has {len(short)} short and "
              f"{len(long)} long documents, {sum(len(d[1]) for d in documents)} tokens", flush=True)

    rng = random.Random(step * args.workers + rank)

    def stream(pool):
        while True:
            rng.shuffle(pool)
            yield from pool

    def mixed():
        """Copying practice fills half of the first steps and fades out."""
        for document in stream(short):
            while rng.random() < max(0.0, 0.5 - step / 1600):
                yield copy_document(rng)
            yield document

    short_stream, long_stream = mixed(), stream(long)
    started, seen, last_eval = time.time() - elapsed, [], elapsed
    while True:
        progress = elapsed / (60 * args.minutes)
        done = progress >= 1
        if rank == 0 and (done or elapsed - last_eval > 150):
            last_eval = elapsed
            scores = validate(model, validation, 256)
            mean = sum(scores.values()) / len(scores)
            print(f"step {step}  {elapsed / 60:.1f} min  loss {sum(seen) / max(1, len(seen)):.4f}  "
                  + "  ".join(f"{task} {score:.3f}" for task, score in scores.items()), flush=True)
            seen = []
            if mean >= best:
                best = mean
                export(model, args.out)
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers],
                     "step": step, "elapsed": elapsed}
            replace(args.data / "checkpoint.pt", lambda path: torch.save(state, path))
        if done:
            break
        if step % 16 == 15:
            width = CONFIG["max_position_embeddings"]
            packed = pack(long_stream, 1, width)
        else:
            width = 256
            packed = pack(short_stream, args.rows, width)
        ids, owner, where, target, weight = tensors(packed, width)
        losses = F.cross_entropy(model.logits(ids, owner, where), target, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        for optimizer, rates in zip(optimizers, peaks):
            optimizer.zero_grad()
            for group, peak in zip(optimizer.param_groups, rates):
                group["lr"] = peak * schedule(progress, step)
        (loss / args.workers).backward()
        clock = torch.tensor([time.time() - started if rank == 0 else 0.0])
        sum_over_workers([p.grad for p in params] + [clock])
        elapsed = clock.item()
        nn.utils.clip_grad_norm_([embedding, *others], 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seen.append(loss.item())
        step += 1
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
