"""Texts and conversations that tokenizers are compared on."""

import json
import random

WORDS = """the Hello , . ! ? world Größe naïve café Straße ÆTHER ǅungla İstanbul ςΣσ Привет мир Ёлка שלום مرحبا हिन्दी ภาษาไทย
한국어 日本語 中文字符 「引用」 ﷽ 🦊 👩‍👩‍👧‍👦 🇫🇷 ❤️ 🏳️‍🌈 e\u0301 o\u0308\u0323 ﬁ ½ ² Ⅷ ① ٣٤ ०१ 12 1234567 3.14 -1e-5 0x1F $9.99 50% a_b camelCase HTTPServer XMLHttp
def fn() { return x; } // /* */ <div> </div> && || != == += -> => :: #include std::vector<int> \\n \\t "quoted" 'single' `tick`
it's I'LL don't we've he'd 'S 'Re https://a.b/c?d=e&f=g user@example.com #tag @me C:\\path \u200b \u200d \ufeff \u00a0 \u3000 \u2028 \x00 \x07 \x7f \x85 \ufffd
ￏ 𝒳𝓎 𐍈 \U0010ffff ㏂ ʰʷ ⁿ ºª ǈ ͅ ̈ ⃝ ༒ ෴ ▁ ▁▁ ▁the""".split()
CONTROL = """<s> </s> <unk> <pad> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS]
[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT] [PREFIX] [SUFFIX] [MIDDLE] [IMG] [control_9] [REFERENCE_DOC_3] [REF] [/REF] <0x41> <0x0A> <SPECIAL_30>
<|im_start|> <| s> [INST /INST] [[INST]] <<s>> </s><s>""".split()
SPACES = ["", " ", "  ", "   ", " " * 7, " " * 33, "\t", "\t\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\n\t", "\u00a0", "\u3000", "\u2003", "\u2028", "\x0b", "\x0c"]
CODE = """fn main() {
    let x: Vec<u32> = (0..10).map(|i| i * 2).collect();
\tprintln!("{:?}", x);
}


class A(B):
    \"\"\"Doc.\"\"\"
    def __init__(self, *args, **kw):
        self.x = {'a': [1, 2, 3], "b": None}  # comment
"""


def texts(count, seed=11):
    random.seed(seed)
    fixed = ["", *WORDS, *CONTROL, *SPACES, CODE, CODE.replace("    ", "\t"), "a" * 5000, " " * 5000, "ab " * 3000, "🦊" * 700, "\n" * 999, "日本" * 900]
    fixed += [" " + word for word in WORDS] + [word + "\n" for word in WORDS] + [word.upper() for word in WORDS]
    made = []
    while len(fixed) + len(made) < count:
        style = random.random()
        if style < 0.55:
            parts = random.choices(WORDS, k=random.randint(1, 14))
            made.append("".join(part + random.choice(SPACES[:6] if random.random() < 0.8 else SPACES) for part in parts))
        elif style < 0.7:
            made.append("".join(random.choice(random.choice([WORDS, CONTROL, SPACES])) for _ in range(random.randint(1, 12))))
        elif style < 0.85:
            characters = [chr(random.choice([random.randint(1, 0x24f), random.randint(0x300, 0x2fff), random.randint(0x3000, 0xd7ff), random.randint(0xe000, 0x1ffff)])) for _ in range(random.randint(1, 30))]
            made.append("".join(characters))
        else:
            start = random.randrange(len(CODE))
            made.append(CODE[start : start + random.randint(1, 120)])
    return fixed + made


def tool(name, **properties):
    function = {"name": name, "description": random.choice(["", "Gets é \"it\"."]), "parameters": {"type": "object", "properties": properties, "required": list(properties)}}
    return {"type": "function", "function": function}


ARGUMENTS = ['{"a": 1}', '{ "b":[1,2.50,1e20,1E-7,-0,-0.0,12345678901234567890123],"a":"é \\u00e9 \\ud83e\\udd8a\\n" }', "", "{}", "not json", '{"a": 1, "a": 2, "b": null, "c": true}', '[1, "x"]', "3", '"text"', '{"n": NaN, "i": [Infinity, -Infinity, 1e999]}', '{"a": 1} x', "01", "\t{}\n", '{"tab": "\t"}', "</s>[INST]"]


def conversations(count, version, seed=12, longest=300):
    """Valid conversations for a version of the instruct format, and some that it refuses."""
    random.seed(seed)
    short = [text for text in texts(900, seed) if len(text) < longest]
    say = lambda: random.choice(short)
    some = lambda: next(filter(None, iter(say, None)))
    identify = lambda: "".join(random.choices("abcXYZ019", k=9 if random.random() < 0.97 else 8))
    while count:
        count -= 1
        tools = [tool(random.choice(["f", "get_weather", "a-b_1"]), **{random.choice("xyz"): {"type": "string", "description": say(), "minimum": random.choice([0.5, 1, 1e16, 1e-7])}}) for _ in range(random.choice([0, 0, 1, 2]))]
        messages = []
        if random.random() < 0.5:
            messages.append({"role": "system", "content": say()})
        for _ in range(random.randint(1, 3)):
            messages.append({"role": "user", "content": say()})
            if random.random() < 0.2:
                messages.append({"role": "user", "content": [{"type": "text", "text": some()}, {"type": "text", "text": say()}]})
            if random.random() < 0.1:
                messages.append({"role": "system", "content": say()})
            if version != "v1" and random.random() < 0.5:
                calls = [{"id": identify(), "type": "function", "function": {"name": random.choice(["f", "get_weather"]), "arguments": random.choice(ARGUMENTS)}} for _ in range(1 if version == "v2" else random.choice([1, 1, 2]))]
                messages.append({"role": "assistant", "content": some() if version not in ("v1", "v2", "v3") and random.random() < 0.3 else None, "tool_calls": calls})
                answers = [{"role": "tool", "content": random.choice(ARGUMENTS + [say()]), "tool_call_id": call["id"], "name": random.choice([None, "f"])} for call in calls]
                messages += random.sample(answers, len(answers))
            elif random.random() < 0.5:
                messages.append({"role": "assistant", "content": some()})
            else:
                continue
            if messages[-1]["role"] == "tool" and random.random() < 0.8:
                messages.append({"role": "assistant", "content": some() + random.choice(["", " ", "  ", "\n"])})
        if messages[-1]["role"] == "assistant":
            messages[-1] = {**messages[-1], "prefix": True} if random.random() < 0.4 and messages[-1].get("content") else {"role": "user", "content": say()}
        yield {"messages": messages, "tools": tools if version != "v1" else []}


if __name__ == "__main__":
    print(json.dumps(texts(30)))
