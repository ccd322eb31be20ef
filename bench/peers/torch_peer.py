# SPDX-License-Identifier: MIT
"""PyTorch's scaled_dot_product_attention on the CPU: the same shapes as
sparq_speed_of_peers, in a process of its own, as rows of the same kind.

The data are other random numbers of the same kind; L3 is emptied and the roof taken by the
same code as there, from --probe. For G > 1 each type is also measured with the G query heads
of a KV head as G query tokens, which is the same attention and lets a KV head be read once.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}


def shapes(quick: bool) -> list:
    """(S, query heads, KV heads, d_h), and whether it is measured on two threads as well."""
    k = 1024
    if quick:
        table = [(4 * k, 32, 32, 128), (4 * k, 32, 8, 128), (4 * k, 9, 3, 64)]
    else:
        table = [(4 * k, 32, 32, 128), (16 * k, 32, 32, 128), (16 * k, 32, 8, 128), (64 * k, 32, 8, 128), (16 * k, 9, 3, 64)]
    lengths = [k << i for i in range(3 if quick else 7)]
    rest = [(length, heads, 8, 128) for heads in (8, 32) for length in lengths]
    return [(shape, True) for shape in table] + [(shape, False) for shape in rest if shape not in table]


class Probe:
    def __init__(self, path: str):
        library = ctypes.CDLL(path)
        self.flush = library.sparq_probe_flush
        self._read = library.sparq_probe_streaming_read
        self._read.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def roof(self, tensors: list) -> None:
        for tensor in tensors:
            self._read(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def exact(q, keys, values):
    """Dense attention in double precision, [H_q, d_h]; KV head by KV head, for the memory."""
    heads_kv, head_dim = keys.shape[1], keys.shape[3]
    outputs = []
    for g, group in enumerate(q.double().view(heads_kv, -1, head_dim)):
        weights = torch.softmax(group @ keys[0, g].double().T / head_dim**0.5, dim=-1)
        outputs.append(weights @ values[0, g].double())
    return torch.cat(outputs)


def candidates(q, keys, values) -> list:
    """(name, call) of the ways to ask for the same attention."""
    heads_q, heads_kv, head_dim = q.shape[0], keys.shape[1], keys.shape[3]
    name = "PyTorch sdpa, " + str(keys.dtype).removeprefix("torch.")
    q = q.to(keys.dtype)
    plain, folded = q.view(1, heads_q, 1, head_dim), q.view(1, heads_kv, -1, head_dim)
    if heads_q == heads_kv:
        return [(name, lambda: scaled_dot_product_attention(plain, keys, values))]
    return [
        (name, lambda: scaled_dot_product_attention(plain, keys, values, enable_gqa=True)),
        (name + ", folded", lambda: scaled_dot_product_attention(folded, keys, values)),
    ]


def timed(clock, call) -> float:
    start = clock()
    call()
    return clock() - start


def spread(figures: list) -> dict:
    return {"median": statistics.median(figures), "low": min(figures), "high": max(figures)}


def make_queries(heads_q: int, head_dim: int):
    """Heavy-tailed components, logits of standard deviation 4."""
    q = torch.randn(heads_q, head_dim) ** 3
    return 4 * head_dim**0.5 * q / q.norm(dim=1, keepdim=True)


class Subject:
    """One way to call, over caches of one type, and its times in seconds."""

    def __init__(self, name: str, call, tensors: list, expected):
        self.name, self.call, self.tensors, self.expected = name, call, tensors, expected
        self.own, self.roof = [], []

    def row(self, shape: tuple, threads: int, in_table: bool) -> dict:
        seq_len, _, heads_kv, _ = shape
        difference = self.call().double().reshape(self.expected.shape) - self.expected
        return {
            "shape": dict(zip(("seq_len", "heads_q", "heads_kv", "head_dim"), shape)),
            "threads": threads,
            "in_table": in_table,
            "method": self.name,
            "us": spread([1e6 * seconds for seconds in self.own]),
            "ns_per_token_and_kv_head": 1e9 * statistics.median(self.own) / (seq_len * heads_kv),
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in self.tensors),
            # The probe reads with one thread, whatever PyTorch uses.
            "roof_us": 1e6 * statistics.median(self.roof),
            "share_of_roof": spread([b / a for a, b in zip(self.own, self.roof)]),
            "deviation": (difference.norm(dim=1) / self.expected.norm(dim=1)).max().item(),
            "tolerance": TOLERANCE[self.tensors[0].dtype],
        }


def measure(shape: tuple, threads: int, rounds: int, probe: Probe, in_table: bool) -> list:
    seq_len, heads_q, heads_kv, head_dim = shape
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    q = make_queries(heads_q, head_dim)
    cache = [torch.randn(1, heads_kv, seq_len, head_dim) for _ in range(2)]
    subjects = []
    for kind in (torch.bfloat16, torch.float32):
        tensors = [tensor.to(kind) for tensor in cache]
        expected = exact(q, *tensors)
        subjects += [Subject(name, call, tensors, expected) for name, call in candidates(q, *tensors)]
    for subject in subjects:
        subject.call()
    for _ in range(rounds):
        for subject in subjects:
            probe.flush()
            subject.roof.append(timed(clock, lambda: probe.roof(subject.tensors)))
            probe.flush()
            subject.own.append(timed(clock, subject.call))
    return [subject.row(shape, threads, in_table) for subject in subjects]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--probe", required=True, help="libsparq_peers_probe.so")
    parser.add_argument("--json", required=True)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    probe, rows = Probe(arguments.probe), []
    with torch.inference_mode():
        for shape, in_table in shapes(arguments.quick):
            print(f"measuring: PyTorch {shape}", file=sys.stderr)
            for threads in (1, 2) if in_table else (1,):
                rows += measure(shape, threads, 3 if arguments.quick else 15, probe, in_table)
    wrong = [
        f"{row['method']} at {row['shape']} deviates by {row['deviation']}"
        for row in rows
        if not row["deviation"] <= row["tolerance"]
    ]
    version = f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, in a process of its own"
    with open(arguments.json, "w", encoding="utf-8") as file:
        json.dump({"version": version, "rows": rows, "wrong_results": wrong}, file, indent=2)
    for complaint in wrong:
        print("WRONG RESULT:", complaint, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
