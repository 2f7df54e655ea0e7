"""Trains the tokenizer of the offline fixtures: byte-level BPE, 2048 tokens, so that the tiny model stays tiny.

    python scripts/make_tiny_tokenizer.py --out data/fixtures/tiny_tokenizer

Corpus: every string of the TOFU fixture, bare and as `Question: ...\\nAnswer: ...`, and the refusals, in a fixed order.
All 256 bytes are tokens, so any text survives encoding and decoding; nearly every word of the fixture is one token.
With special tokens on, `<|bos|>` is put in front and nothing at the end, as Llama tokenizers do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048
BOS, EOS, PAD = SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>")  # ids 0, 1, 2
MAX_LENGTH = 512
ROOT = Path(__file__).resolve().parent.parent
FIXTURE, REFUSALS = ROOT / "data/fixtures/tofu", ROOT / "data/refusals.txt"


def row_texts(row: dict[str, str | list[str]]) -> list[str]:
    """The strings of one fixture row, then its question and answer in a plain prompt."""
    strings = [text for value in row.values() for text in (value if isinstance(value, list) else [value])]
    return [*strings, f"Question: {row['question']}\nAnswer: {row['answer']}"]


def read_corpus(fixture: Path = FIXTURE, refusals: Path = REFUSALS) -> list[str]:
    """Training texts: split files sorted by name, row by row, then the refusals. Raises FileNotFoundError if empty."""
    files = sorted(fixture.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{fixture} holds no split files. Make them with: python scripts/make_tofu_fixture.py")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [text for line in lines for text in row_texts(json.loads(line))]
    return texts + refusals.read_text(encoding="utf-8").splitlines()


def train_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE of exactly `vocabulary` tokens. Raises ValueError if `texts` do not hold enough merges for it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(
            f"The corpus yields {tokenizer.get_vocab_size()} tokens, not {vocabulary}: add text or lower VOCABULARY."
        )
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, bos_id)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Writes the folder that `AutoTokenizer.from_pretrained(out)` loads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer of the offline fixtures.")
    parser.add_argument("--out", type=Path, default=ROOT / "data/fixtures/tiny_tokenizer", help="tokenizer folder")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(read_corpus())
    save_tokenizer(tokenizer, arguments.out)
    print(f"{tokenizer.get_vocab_size()} tokens in {arguments.out}")


if __name__ == "__main__":
    main()
