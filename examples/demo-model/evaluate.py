#!/usr/bin/env python3
"""Measure the demo model on its held-out sets, with transformers on the CPU.

    python evaluate.py [--rows 200] [--show 2]

Every answer is decoded greedily. Labels, summaries and chat answers must be
exactly the reference; code must give the right result for every test (and is
also compared with the reference text); a story counts when it ends by itself
after at least five sentences and keeps to one hero, one treasure and one helper.
First, the logits of the model as trained (train.py) and as transformers runs
it are compared, also beyond the attention window.
"""

import argparse
import json
import os
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from corpus import COLORS, Grammar

HERE = Path(__file__).resolve().parent


class Runner:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(self, ids, limit):
        """The prompt's ids with their greedy continuation."""
        with torch.no_grad():
            return self.model.generate(torch.tensor([ids]), max_new_tokens=limit, do_sample=False,
                                       pad_token_id=train.EOS)[0]

    def complete(self, prompt, limit):
        """(text, ended): the continuation of a raw text."""
        out = self.generate(self.tokenizer(prompt).input_ids, limit)
        text = self.tokenizer.decode(out, skip_special_tokens=True)
        return text.removeprefix(prompt), out[-1].item() == train.EOS

    def answer(self, user, limit=60):
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        out = self.generate(ids, limit)
        return self.tokenizer.decode(out[len(ids):], skip_special_tokens=True).removeprefix(" ")


def runs(source, tests):
    """Whether the code gives every expected result."""
    scope = {}
    try:
        exec(source, scope)
        return all(repr(eval(call, scope)) == expected for call, expected in tests)
    except Exception:
        return False


def is_story(prompt, text, ended):
    """Ended, at least five sentences, one hero, one treasure and one helper throughout."""
    hero = prompt.rstrip(".").split()[-1]
    sentences = [s for s in text.replace('"', "").split(". ") if s]
    treasures = set(re.findall(rf"(?:{'|'.join([*COLORS, 'golden', 'magic'])}) \w+", text))
    helpers = set(re.findall(r"\b(?:owl|turtle|horse|ant|wolf)\b", text))
    return ended and len(sentences) >= 5 and sum(hero in s for s in sentences) >= 3 and len(treasures) == len(helpers) == 1


def logit_difference(runner, folder, text):
    """Largest difference between train.py's model and transformers' on a text."""
    model = train.Mistral(train.CONFIG)
    model.load_state_dict({name: w.float() for name, w in load_file(folder / "model.safetensors").items()})
    ids = torch.tensor([runner.tokenizer(text).input_ids])
    with torch.no_grad():
        ours = model.lm_head(model(ids, torch.zeros_like(ids)))
        theirs = runner.model(ids).logits
    return ids.shape[1], (ours - theirs).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--heldout", type=Path, default=HERE / "heldout")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--show", type=int, default=2, help="print the first N examples and misses of each set")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runner, grammar = Runner(args.model), Grammar(0, heldout=True)

    def score(name, judge):
        rows = [json.loads(line) for line in open(args.heldout / f"{name}.jsonl", encoding="utf-8")][:args.rows]
        right = exact = shown = 0
        for i, row in enumerate(rows):
            output, good, same = judge(row)
            right, exact = right + good, exact + same
            if i < args.show or (not good and shown < args.show):
                shown += not good
                print(f"  [{'ok' if good else 'MISS'}] {json.dumps(output, ensure_ascii=False)}")
        print(f"{name}: {right}/{len(rows)} = {right / len(rows):.1%}"
              + (f" (exact text {exact}/{len(rows)})" if exact != right else ""), flush=True)

    def equals(output, reference):
        return output, output == reference, output == reference

    def code(row):
        body, _ = runner.complete(row["prompt"], 80)
        return body, runs(row["prompt"] + body, row["tests"]), body == row["completion"]

    def story(row):
        text, ended = runner.complete(row["prompt"], 350)
        good = is_story(row["prompt"], text, ended)
        return row["prompt"] + text, good, good

    length, difference = logit_difference(runner, args.model, " ".join("".join(grammar.story()) for _ in range(4)))
    print(f"logits over {length} tokens: largest difference {difference:.1e}")
    assert length > train.CONFIG["sliding_window"] and difference < 1e-2
    score("classify", lambda r: equals(runner.answer(grammar.classify_prompt(r["text"], r["labels"])), r["label"]))
    score("summarize", lambda r: equals(runner.answer(grammar.summary_prompt(r["text"])), r["summary"]))
    score("chat", lambda r: equals(runner.answer(r["user"]), r["answer"]))
    score("code", code)
    score("stories", story)


if __name__ == "__main__":
    main()
