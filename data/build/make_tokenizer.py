"""Trains the bundled tokenizer: Unigram with byte fallback. Spaces stay spaces inside the pieces, so
any text, newlines and all, comes back from its ids unchanged.

    python data/build/make_tokenizer.py [--vocab 4096] [--out data/models/tiny]
"""

import argparse
import io
import math
import random
from collections import Counter
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import episodes
import grammar

SPECIAL = ["<pad>", "</s>", "<unk>"]
WHOLE = ["#Person1#", "#Person2#", "#Person1#:", "#Person2#:", "\n", "Summary:", "Answer:"]
SPLIT = Regex(r"#Person[12]#:?|Summary:|Answer:|\n| ?\d| ?[\p{L}\p{M}']+| ?[^\s\p{L}\p{M}\d']+|\s")
WINDOW = 768


def train(texts: list[str], vocab_size: int) -> Tokenizer:
    """Half of the pieces are learned by sentencepiece, which finds the parts that words share; the
    other half are the most frequent whole words, with the logarithm of their share as score."""
    model, split = io.BytesIO(), pre_tokenizers.Split(SPLIT, "isolated")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for t in texts for line in t.split("\n") if line), model_writer=model,
        model_type="unigram", vocab_size=vocab_size // 2, byte_fallback=True, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, character_coverage=1.0, split_digits=True,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece=SPECIAL[0], eos_piece=SPECIAL[1], unk_piece=SPECIAL[2],
        user_defined_symbols=WHOLE, max_sentence_length=8192, minloglevel=1, num_threads=1)
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = {learned.id_to_piece(i).replace("\u2581", " "): learned.get_score(i) for i in range(len(learned))}
    words = Counter(part for t in texts for part, _ in split.pre_tokenize_str(t))
    for word, count in words.most_common():
        if len(pieces) == vocab_size:
            break
        pieces.setdefault(word, math.log(count / words.total()))
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--texts", type=int, default=30_000)
    parser.add_argument("--out", type=Path, default=grammar.HERE.parent / "models" / "tiny")
    args = parser.parse_args()
    world, rng = grammar.load(), random.Random(1)
    weights = {"headline": 0.35, "task": 0.45, "reference": 0.1, "labels": 0.05, "fields": 0.05}
    kinds = rng.choices(list(weights), list(weights.values()), k=args.texts)
    texts = [t for kind in kinds for t in episodes.episode(world, rng, frozenset(), "skills", kind)[1:]]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train(texts, args.vocab), pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=WINDOW, clean_up_tokenization_spaces=False)
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} pieces -> {args.out}")


if __name__ == "__main__":
    main()
