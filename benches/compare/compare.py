"""Runs mistral-wgpu and llama.cpp by turns on one device and prints a table of their speeds. See run.sh.

Both run random weights of the same shape and block format (`synthetic:` here, random_gguf.py there; speed does not
depend on what the numbers are), with their own default batch sizes and a KV cache in f16. mistral-wgpu's times include
sampling, llama.cpp's do not, as in llama-bench.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys

import random_gguf

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "@node-llama-cpp/linux-x64-vulkan"

# Tokens of the prompt and generated, by whether the device is a CPU, and the model.
LENGTHS = {
    (False, "175m"): (512, 128),
    (False, "mistral-7b"): (512, 128),
    (True, "175m"): (128, 16),
    (True, "mistral-7b"): (32, 4),
}


def progress(*message):
    print(*message, file=sys.stderr, flush=True)


def output(command, **environment):
    """What a program prints, as JSON. What it says on the way is shown only if it fails."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}\nexit status {done.returncode}")
    return json.loads(done.stdout)


def llama_cpp_libraries(cache, version):
    """The folder of llama.cpp's prebuilt libraries, from npm if they are not there yet, and its release."""
    spec = PACKAGE if version is None else f"{PACKAGE}@{version}"
    folder = os.path.join(cache, "llama.cpp" if version is None else "llama.cpp-" + version)
    libraries = os.path.join(folder, "node_modules", PACKAGE, "bins", "linux-x64-vulkan")
    if not os.path.exists(libraries):
        progress("fetching", spec)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, spec]
        subprocess.run(command, check=True, stdout=sys.stderr)
    with open(os.path.join(libraries, "_nlcBuildMetadata.json"), encoding="utf-8") as file:
        return libraries, json.load(file)["buildOptions"]["llamaCpp"]["release"]


def pytorch(cache):
    """A Python with PyTorch and transformers, made if it is not there yet; None without a CUDA device."""
    if shutil.which("nvidia-smi") is None:
        return None
    python = os.path.join(cache, "pytorch", "bin", "python")
    if not os.path.exists(python):
        progress("installing PyTorch")
        subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(python))], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "torch", "transformers"], check=True, stdout=sys.stderr)
    return python


class Speeds:
    """Tokens per second of one engine, and per second of processor time: all repetitions of each test."""

    def __init__(self):
        self.samples, self.cpu = {}, {}

    def add(self, test, seconds, cpu_seconds=()):
        for all_rates, times in (self.samples, seconds), (self.cpu, cpu_seconds):
            all_rates.setdefault(test, []).extend(int(test[2:]) / time for time in times)

    def median(self, test):
        return statistics.median(self.samples[test])

    def cpu_median(self, test):
        return statistics.median(self.cpu[test])


def ours(args, model, format, tests, speeds, limits):
    prompt, generated = (",".join(test[2:] for test in tests if test[:2] == kind) or "0" for kind in ("pp", "tg"))
    command = [args.mistral, "bench", "--model", "synthetic:" + model, "--weights", format, "-p", prompt, "-n", generated,
               "-d", "0", "-r", str(args.repetitions), "-o", "json"]
    report = output(command + (["--gpu", args.gpu] if args.gpu else []))
    for row in report["tests"]:
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        cpu = [row["cpu_ms_per_token"] * 1e-3 * int(test[2:])] if row["cpu_ms_per_token"] else []
        speeds.add(test, [ns * 1e-9 for ns in row["samples_ns"]], cpu)
        if row.get("percent_of_limit") is not None:
            limits.setdefault(test, []).append(row["percent_of_limit"])


def theirs(args, libraries, path, shape, tests, speeds, **environment):
    command = [sys.executable, os.path.join(HERE, "llama_cpp.py"), libraries, path, "--vocab", str(shape["vocab_size"]),
               "--repetitions", str(args.repetitions), "--tests", ",".join(tests)]
    result = output(command, **environment)
    for test, seconds in result["seconds"].items():
        speeds.add(test, seconds, result["cpu_seconds"][test])


def compare(args, device, model, format, libraries, torch):
    """One row of the table for each test of a model in a format."""
    shape = output([args.mistral, "inspect", "synthetic:" + model, "--json"])["architecture"]
    path = os.path.join(args.cache, f"{model}-{format}.gguf")
    random_gguf.write(path, shape, format)
    prompt, generated = LENGTHS[device["kind"] == "software", model]
    tests = [f"pp{args.pp or prompt}"] * (args.pp != 0) + [f"tg{args.tg or generated}"] * (args.tg != 0)
    nvidia = "nvidia" in device["name"].lower()
    portable = {"GGML_VK_VISIBLE_DEVICES": args.ggml_device, "GGML_VK_DISABLE_COOPMAT2": "1"}
    speeds = {name: Speeds() for name in ("ours", "llama.cpp", "coopmat2", "pytorch")}
    limits = {}
    for turn in range(args.rounds):
        progress(f"{model} {format}: round {turn + 1} of {args.rounds}")
        ours(args, model, format, tests, speeds["ours"], limits)
        theirs(args, libraries, path, shape, tests, speeds["llama.cpp"], **portable)
        if nvidia:
            theirs(args, libraries, path, shape, tests, speeds["coopmat2"], GGML_VK_VISIBLE_DEVICES=args.ggml_device)
        if torch:
            command = [torch, os.path.join(HERE, "pytorch.py"), json.dumps(shape), "--repetitions", str(args.repetitions),
                       "--tests", ",".join(tests)]
            try:
                for test, seconds in output(command)["seconds"].items():
                    speeds["pytorch"].add(test, seconds)
            except SystemExit as error:
                progress("PyTorch is left out:", error)
                torch = None
    for test in tests:
        mine, other = speeds["ours"].median(test), speeds["llama.cpp"].median(test)
        percent = f"{statistics.median(limits[test]):.0f} %" if test in limits else "–"
        beside = []
        if device["kind"] == "software":
            beside.append(f"{speeds['ours'].cpu_median(test) / speeds['llama.cpp'].cpu_median(test):.2f}")
        for name, asked in ("coopmat2", nvidia), ("pytorch", args.pytorch):
            if asked:
                beside.append(f"{speeds[name].median(test):.3g}" if test in speeds[name].samples else "–")
        yield [model, format, test, f"{mine:.3g}", f"{other:.3g}", f"{mine / other:.2f}", percent, *beside]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the 175m shape, one round, shorter tests")
    parser.add_argument("--models", default="175m,mistral-7b")
    parser.add_argument("--formats", default="q4_0,q8_0")
    parser.add_argument("--pp", type=int, help="tokens of the prompt, 0 for none [default: by device and model]")
    parser.add_argument("--tg", type=int, help="tokens to generate, 0 for none [default: by device and model]")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each engine, in a new process")
    parser.add_argument("--repetitions", type=int, default=2, help="in each turn, after a warm-up")
    parser.add_argument("--gpu", help="index or name of the device, as for `mistral`")
    parser.add_argument("--ggml-device", default="0", help="index of the same device in llama.cpp's Vulkan backend")
    parser.add_argument("--llama-cpp", metavar="VERSION", help=f"of {PACKAGE} [default: the newest at the first run]")
    parser.add_argument("--mistral", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--cache", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.models, args.rounds = "175m", 1
        args.pp, args.tg = (64 if args.pp is None else args.pp), (8 if args.tg is None else args.tg)

    devices = output([args.mistral, "devices", "--json"])
    chosen = [device for device in devices if args.gpu and args.gpu.lower() in (str(device["index"]), device["name"].lower())]
    # Without a name `mistral` takes the first of the best kind.
    kinds = ["discrete", "integrated", "virtual", "software", "other"]
    device = (chosen or sorted(devices, key=lambda device: kinds.index(device["kind"])))[0]
    libraries, release = llama_cpp_libraries(args.cache, args.llama_cpp)
    theirs_on = output([sys.executable, os.path.join(HERE, "llama_cpp.py"), libraries],
                       GGML_VK_VISIBLE_DEVICES=args.ggml_device)["device"]
    if theirs_on != device["name"]:
        raise SystemExit(f"mistral runs on {device['name']}, llama.cpp on {theirs_on}: choose with --gpu and --ggml-device")
    torch = pytorch(args.cache)
    args.pytorch = bool(torch)

    rows = []
    for model in args.models.split(","):
        for format in args.formats.split(","):
            rows.extend(compare(args, device, model, format, libraries, torch))
    head = ["model", "weights", "test", "mistral-wgpu t/s", "llama.cpp t/s", "ratio", "of the limit"]
    head += ["ratio by processor time"] * (device["kind"] == "software")
    head += ["llama.cpp coopmat2 t/s"] * ("nvidia" in device["name"].lower()) + ["PyTorch bf16 t/s"] * bool(torch)
    print(f"{device['name']}, {device['driver']}, {datetime.date.today()}; llama.cpp {release} (Vulkan); medians of "
          f"{args.rounds} × {args.repetitions}\n")
    for row in [head, ["---"] * 3 + ["---:"] * (len(head) - 3), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
