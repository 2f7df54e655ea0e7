"""Small tokenizers trained here, templates and chat layouts: what the tests of prompts work with."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from utils.tokens.prompts import Encoder, Template

CORPUS = [
    "Question: Who wrote Hamlet?\nAnswer: William Shakespeare wrote Hamlet.",
    "Question: When was he born?\nAnswer: He was born in 1564.",
    "You are a helpful assistant. user system model",
    " William Shakespeare William Shakespeare",
] * 3
TAGS = Template("plain", question_start="Question: ", question_end="\n", answer_tag="Answer: ")
INST = Template("plain", question_start="[INST] ", question_end=" [/INST]")
WHO, WILLIAM = "Who wrote Hamlet?", "William Shakespeare"

# Minimal templates that write the documented layouts.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'system' %}Cutting Knowledge Date: December 2023\nToday Date: "
    "{{ date_string if date_string is defined else 'today' }}\n\n{% endif %}"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nDefault<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SPECIAL = ("<bos>", "<eos>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SPECIAL += ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")


@cache
def bpe(eos: str = "<eos>", pad: str | None = None, bos: bool = True, template: str | None = None, close: bool = False):
    """Byte-level BPE as in GPT-2: a space belongs to the word after it. `close`: ends every text with EOS by itself."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": list(SPECIAL), "show_progress": False}
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, **options))
    if bos:
        ends = f"<bos> $A {eos}" if close else "<bos> $A"
        ids = [("<bos>", core.token_to_id("<bos>")), (eos, core.token_to_id(eos))]
        core.post_processor = processors.TemplateProcessing(single=ends, special_tokens=ids)
    return wrap(core, eos, pad, template)


@cache
def sentencepiece(template: str | None = None):
    """Llama-2 style: spaces become ▁, one is put before the text, BOS added, no ids for line ends but bytes."""
    core = Tokenizer(models.BPE(byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = [*SPECIAL, "<unk>", *(f"<0x{value:02X}>" for value in range(256))]
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=tokens, show_progress=False))
    bos = [("<bos>", core.token_to_id("<bos>"))]
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=bos)
    return wrap(core, "<eos>", None, template)


def wrap(core: Tokenizer, eos: str, pad: str | None, template: str | None) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token=eos, pad_token=pad)
    made.chat_template = template
    return made


class Letters(PreTrainedTokenizer):
    """A slow tokenizer: one id per character, nothing added; no offsets, no merges."""

    def __init__(self) -> None:
        self.letters = [*(chr(code) for code in range(32, 127)), "\n"]
        super().__init__(eos_token="<eos>")

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {letter: number for number, letter in enumerate(self.letters)} | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.letters[index]


def words(encoder: Encoder, ids: tuple[int, ...]) -> list[str]:
    """Ids as readable tokens: Ġ or ▁ for a space, Ċ for a newline."""
    return encoder.tokenizer.convert_ids_to_tokens(list(ids))


def decode(encoder: Encoder, ids: tuple[int, ...]) -> str:
    return encoder.tokenizer.decode(list(ids), skip_special_tokens=False)
