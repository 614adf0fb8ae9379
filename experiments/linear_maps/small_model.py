"""The small model: a Llama of three layers that is trained here, from nothing, to predict the next token.

    python experiments/linear_maps/small_model.py --data FOLDER --out out/linear_maps/small

A run that was stopped goes on from its last checkpoint. OUT then holds an ordinary Hugging Face folder with its own
byte-level tokenizer, and `perplexity.json`: what texts that were not trained on cost it, beside what they cost a unigram and
a bigram model of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from texts import Part, read_texts

from probekit.files import write_whole
from probekit.probes.intervals import cluster_counts, paired_interval
from probekit.testbeds.training.loop import checkpoint_step, train

START, PAD = "<s>", "<pad>"
DISCOUNT = 0.75
COOLDOWN = 0.3  # share of the steps over which the rate falls to zero


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Byte-level BPE; a start token is put before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, START], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=START, pad_token=PAD)


def make_model(vocabulary: int, layers: int, width: int, context: int, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=context,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def perplexities(model: Any, tokenizer: Any, trained_on: np.ndarray, part: Part, seed: int) -> dict[str, Any]:
    """What held-out texts cost: perplexity a token by source, with 95 % intervals over articles or texts.

    The unigram has one added to every count; the bigram's counts are discounted (absolute discounting, Ney, Essen & Kneser
    1994, with 0.75) and backed by the unigram.
    """
    size, context = len(tokenizer), model.config.max_position_embeddings
    unigram = (np.bincount(trained_on, minlength=size) + 1) / (len(trained_on) + size)
    seen, times = np.unique(trained_on[:-1].astype(np.int64) * size + trained_on[1:], return_counts=True)
    begun, kinds = (np.bincount(seen // size, weights=w, minlength=size) for w in (times, None))
    rows: dict[str, list[tuple[float, ...]]] = {"small model": [], "bigram": [], "unigram": []}
    tokens = []
    for text in part.texts:
        ids = np.array(tokenizer(text)["input_ids"][:context])
        before, after = ids[:-1], ids[1:]
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None]).logits[0, :-1]
        cost = torch.nn.functional.cross_entropy(logits, torch.from_numpy(after), reduction="sum")
        at = np.minimum(np.searchsorted(seen, before * size + after), len(seen) - 1)
        count = np.where(seen[at] == before * size + after, times[at], 0)
        all_of = np.maximum(begun[before], 1)
        backed = np.where(begun[before] > 0, DISCOUNT * kinds[before] / all_of, 1.0)
        bigram = np.maximum(count - DISCOUNT, 0) / all_of + backed * unigram[after]
        rows["small model"].append(float(cost))
        rows["bigram"].append(float(-np.log(bigram).sum()))
        rows["unigram"].append(float(-np.log(unigram[after]).sum()))
        tokens.append(len(after))
    out: dict[str, Any] = {}
    for source in ("all", *np.unique(part.source).tolist()):
        kept = np.flatnonzero((part.source == source) | (source == "all"))
        cluster = np.unique(part.groups[kept], return_inverse=True)[1]
        draws = cluster_counts(int(cluster.max()) + 1, 1000, seed).numpy()[:, cluster]
        many = np.array(tokens)[kept]
        out[source] = {"tokens": int(many.sum()), "texts": len(kept), "groups": int(cluster.max()) + 1}
        for name, cost in rows.items():
            each = np.array(cost)[kept]
            drawn = np.exp((draws @ each) / (draws @ many))
            out[source][name] = [float(np.exp(each.sum() / many.sum())), *paired_interval(drawn)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/linear_maps/small"))
    parser.add_argument("--steps", type=int, default=4700)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--context", type=int, default=96)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    recipe = {name: value for name, value in vars(args).items() if name not in ("data", "out", "steps")}
    falling = round((1 - COOLDOWN) * args.steps)
    constant, last = args.out / "constant.safetensors", args.out / f"falling-to-{args.steps}.safetensors"
    written = args.out / "recipe.json"
    if written.exists() and json.loads(written.read_text()) != recipe:
        raise SystemExit(f"{args.out} holds a run of another recipe ({written}): choose another --out")
    if constant.exists() and (done := checkpoint_step(constant)) > falling:
        raise SystemExit(
            f"{args.out} has done {done} steps, but --steps {args.steps} has only {falling} before the rate falls"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(written, json.dumps(recipe, indent=2))
    parts = read_texts(args.data, args.seed)
    if not (args.out / "tokenizer.json").exists():
        make_tokenizer(parts["train"].texts, args.vocabulary).save_pretrained(args.out)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.out)
    order = np.random.default_rng(args.seed).permutation(len(parts["train"].texts))
    ids = tokenizer([parts["train"].texts[i] for i in order])["input_ids"]
    stream = np.concatenate([np.array(each, np.int64) for each in ids])
    print(
        f"{len(stream):,} tokens to train on, {args.steps * args.batch * args.context / len(stream):.1f} times over",
        flush=True,
    )
    model = make_model(len(tokenizer), args.layers, args.width, args.context, args.seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    plain = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]

    def batch_at(step: int) -> torch.Tensor:
        starts = np.random.default_rng([args.seed, step]).integers(0, len(stream) - args.context, args.batch)
        return torch.from_numpy(stream[starts[:, None] + np.arange(args.context)])

    optimizers = [torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))]

    def go(checkpoint: Path, stop_at: int, rate_at: Callable[[int], float]) -> None:
        train(
            model, optimizers, batch_at, lambda model, batch: model(batch, labels=batch).loss, checkpoint=checkpoint,
            stop_at=stop_at, rate_at=rate_at, log_every=20, evaluate_every=10**9, save_every=20,
        )  # fmt: skip

    go(constant, falling, lambda step: min(1.0, (step + 1) / 60))
    if not last.exists():
        shutil.copy(constant, last)
    go(last, args.steps, lambda step: (args.steps - step) / (args.steps - falling))
    model.eval()
    found = perplexities(model, tokenizer, stream, parts["valid"], args.seed)
    model.save_pretrained(args.out)
    write_whole(args.out / "perplexity.json", json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
