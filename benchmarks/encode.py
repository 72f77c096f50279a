"""Embedding product titles with MiniLM: ours beside sentence-transformers and onnxruntime.

The titles are those of Chorus Electronics where ``LABKIT_DATA`` has it, else the simulated shop's. Each pair
of runs embeds the same titles by each system in turn, tokenising included. Quality: the cosine between our
vector and the peer's for the same title, and nDCG@10 of exact search with each system's vectors.

``--size small`` takes 2,000 titles, ``--size full`` 10,000. On CUDA the peer and ours run in bf16.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.record import report
from labkit.data import load_chorus
from labkit.evaluate import evaluate_ranked, nDCG
from labkit.models import BiEncoder
from labkit.rank import top_k
from labkit.shop import load
from labkit.text import resolve_encoder

TITLES = {"small": 2_000, "full": 10_000}
PAIRS = 5
Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(TITLES), default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    chosen = parser.parse_args()
    titles, queries, qrels, data = _texts(TITLES[chosen.size])
    with TemporaryDirectory() as folder:
        systems = _systems(chosen.device, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        vectors: dict[str, np.ndarray] = {}
        for encode in systems.values():
            encode(titles[:256])  # threads, allocator and kernels warm up
        for pair in range(PAIRS):
            for name, encode in systems.items():
                start = time.perf_counter()
                vectors[name] = encode(titles)
                seconds[name].append(time.perf_counter() - start)
            print(
                f"pair {pair + 1} of {PAIRS}",
                {n: round(s[-1], 2) for n, s in seconds.items()},
                file=sys.stderr,
            )
        found = {name: _ranked(encode(queries), vectors[name]) for name, encode in systems.items()}
    peer = vectors["sentence-transformers"]
    ranked = found["sentence-transformers"]
    quality = {
        name: {
            "lowest cosine with the peer": round(float((vectors[name] * peer).sum(1).min()), 6),
            "top-10 overlap": round(
                float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, ranked, strict=True)])), 4
            ),
            "nDCG@10": round(float(evaluate_ranked([nDCG @ 10], ids, qrels)[nDCG @ 10].mean()), 4),
        }
        for name, ids in found.items()
    }
    base = seconds["sentence-transformers"]
    ours = "ours fp32" if chosen.device == "cpu" else "ours bf16"
    report(
        "encode",
        chosen.size,
        chosen.device,
        "sentence-transformers",
        [b / a for a, b in zip(seconds[ours], base, strict=True)],
        quality,
        data=data,
        titles=len(titles),
        titles_per_second={name: round(len(titles) / float(np.median(s)), 1) for name, s in seconds.items()},
        speed_over_peer={name: round(float(np.median(np.array(base) / s)), 3) for name, s in seconds.items()},
    )


def _texts(count: int) -> tuple[list[str], list[str], dict[int, dict[int, int]], str]:
    """Titles, queries and the judgements of the titles taken, all numbered from 0."""
    if os.environ.get("LABKIT_DATA"):
        chorus = load_chorus()
        titles, queries, qrels = chorus.titles(), chorus.queries["text"].to_list(), chorus.qrels()
        numbers, data = chorus.queries["query_id"].to_list(), "chorus"
    else:
        market = load("small", 0)
        asked = market.queries_of("test")
        titles, queries, qrels = market.titles(), asked["text"].to_list(), market.judgements("test")
        numbers, data = asked["query_id"].to_list(), "shop"
    # Judged titles first, so that the smaller size still has something to find.
    judged = sorted({item for number in numbers for item in qrels.get(number, {})})
    order = (judged + sorted(set(range(len(titles))) - set(judged)))[:count]
    place = {item: i for i, item in enumerate(order)}
    kept = {
        i: {place[item]: grade for item, grade in qrels.get(number, {}).items() if item in place}
        for i, number in enumerate(numbers)
    }
    return [titles[i] for i in order], queries, kept, data


def _systems(device: str, folder: Path) -> dict[str, Encode]:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(resolve_encoder("minilm"), device=device)
    ours = BiEncoder.from_pretrained("minilm", device)
    systems: dict[str, Encode] = {
        "sentence-transformers": lambda texts: peer.encode(texts, normalize_embeddings=True),
        "ours fp32": ours.encode,
        "ours bf16": lambda texts: ours.encode(texts, exact=False),
    }
    if device == "cuda":
        half = SentenceTransformer(
            resolve_encoder("minilm"), device=device, model_kwargs={"dtype": "bfloat16"}
        )
        systems["sentence-transformers"] = lambda texts: half.encode(texts, normalize_embeddings=True)
        return systems
    return systems | _onnx(ours, folder)


def _onnx(encoder: BiEncoder, folder: Path) -> dict[str, Encode]:
    """onnxruntime in float32 and in dynamic int8, each batch padded to its longest text."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    body = AutoModel.from_pretrained(resolve_encoder("minilm"), attn_implementation="eager").float().eval()
    exact, small = folder / "exact.onnx", folder / "int8.onnx"
    batch = encoder.tokenize(["a sofa", "running shoes"])
    inputs = ["input_ids", "attention_mask"]
    torch.onnx.export(
        _Plain(body),
        tuple(batch[name] for name in inputs),
        exact,
        input_names=inputs,
        output_names=["states"],
        dynamic_axes={name: {0: "B", 1: "T"} for name in (*inputs, "states")},
        dynamo=False,
    )
    quantize_dynamic(exact, small, weight_type=QuantType.QInt8, per_channel=True)

    def system(path: Path) -> Encode:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def encode(texts: list[str]) -> np.ndarray:
            rows = np.empty((len(texts), encoder.dimension), dtype=np.float32)
            tokens = encoder.tokenizer(texts, truncation=True, max_length=encoder.max_length)
            order = sorted(range(len(texts)), key=lambda i: len(tokens["input_ids"][i]))
            for start in range(0, len(texts), 32):
                some = order[start : start + 32]
                part = {name: [tokens[name][i] for i in some] for name in inputs}
                padded = encoder.tokenizer.pad(part, return_tensors="np")
                (states,) = session.run(None, {name: padded[name] for name in inputs})
                mask = padded["attention_mask"][..., None]
                rows[some] = (states * mask).sum(1) / mask.sum(1)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        return encode

    return {"onnxruntime fp32": system(exact), "onnxruntime int8": system(small)}


class _Plain(torch.nn.Module):
    """BERT with its mask as one sum, because the exporter does not follow the code that builds it."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * -1e9  # (B, 1, 1, T)
        states = self.body.embeddings(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids))
        for layer in self.body.encoder.layer:
            states = layer(states, attention_mask=hidden)
        return states  # (B, T, D)


def _ranked(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    return top_k(queries, items, 10)[1]


if __name__ == "__main__":
    main()
