"""Two models as one: what a reinforced copy says louder than the target is taken from the target's logits.

    logits = v_b - alpha * relu(v_r - v_b)        v_b: target, v_r: reinforced, each (..., V)

Source: Who's Harry Potter (arXiv 2310.02238), in the form that MUSE (arXiv 2407.06460) evaluates: the reinforced model is the
target finetuned on what is to be forgotten, the combination itself is the unlearned model, and neither are names replaced
beforehand nor is a third model trained afterwards.

Differs from released code (MUSE): logits are combined in float32 whatever the type of the models, and generation keeps keys and
values of both models instead of reading the whole text again for every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from utils.checks import positive
from utils.engine.engine import Engine
from utils.engine.head import LogitChange, output_head
from utils.weights.folders import ModelError, check_combined
from utils.weights.models import Precision, load_model, load_tokenizer


def combined_logits(target: Tensor, reinforced: Tensor, alpha: float | Tensor) -> Tensor:
    """target - alpha * relu(reinforced - target): tensors of one shape, float32 or wider; alpha: a number or a 0-d tensor."""
    return target - alpha * torch.relu(reinforced - target)


class CombinedHead(nn.Module):
    """The output heads of both models as one: (..., H_target + H_reinforced) hidden states -> (..., V) float32 logits.

    changes: what each model does to its logits behind its head.

    Raises ValueError if alpha is not a finite number above 0, ModelError if the heads have vocabularies of different size.
    """

    def __init__(
        self, target: nn.Linear, reinforced: nn.Linear, alpha: float, changes: Sequence[LogitChange | None] = (None, None)
    ):
        super().__init__()
        positive("reinforced.alpha", alpha)  # at 0 the combination is the target model
        if target.weight.shape[0] != reinforced.weight.shape[0]:
            raise ModelError(
                f"the target model has {target.weight.shape[0]} tokens and the reinforced model {reinforced.weight.shape[0]}; "
                "give as reinforced.path the target itself, finetuned"
            )
        self.target, self.reinforced = target, reinforced
        self.widths = (target.weight.shape[1], reinforced.weight.shape[1])
        self.changes = tuple(changes)
        # Buffers, so that the hash of the weights knows them.
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        if any(changes):
            values = [0.0 if change is None else change.value for change in changes]
            self.register_buffer("changed_by", torch.tensor(values, dtype=torch.float64))

    @property
    def weight(self) -> Tensor:
        """(V, H) of the target's head."""
        return self.target.weight

    def forward(self, hidden: Tensor) -> Tensor:
        pairs = zip((self.target, self.reinforced), hidden.split(self.widths, dim=-1), self.changes, strict=True)
        of_target, of_reinforced = (
            (head(states) if change is None else change(head(states))).float() for head, states, change in pairs
        )
        return combined_logits(of_target, of_reinforced, self.alpha)


class CombinedModel(nn.Module):
    """A target and a reinforced causal language model as one model, for evaluation: the engine scores it, and it generates.

    Both models are taken over: their output heads move into the common one, so what they call logits from now on are hidden
    states, and the engine's way of never holding all logits holds for both. Nothing trains.
    Raises ModelError as `CombinedHead` does, and ValueError for a model whose logits are not those of a linear output head.
    """

    def __init__(self, target: nn.Module, reinforced: nn.Module, alpha: float):
        super().__init__()
        # Made for what they refuse: logits that change in unknown ways, which nobody would notice later.
        changes = [Engine(model, pad=0, shared=False).change for model in (target, reinforced)]
        for change in changes:
            if change is not None:
                change.switch_off()
        self.head = CombinedHead(output_head(target), output_head(reinforced), alpha, changes)
        self.target, self.reinforced = _without_head(target), _without_head(reinforced)
        self.config = target.config
        self.requires_grad_(False).eval()

    @property
    def generation_config(self) -> GenerationConfig:
        """The target's: it leads the generation."""
        return self.target.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.target.generation_config = config

    def get_output_embeddings(self) -> CombinedHead:
        return self.head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, use_cache: bool = False
    ) -> CausalLMOutput:
        """(B, T) ids -> (B, T, V) float32 logits. Masks and positions as both models take them.

        Raises ValueError for use_cache=True: only `generate` keeps keys and values.
        """
        if use_cache:
            raise ValueError("use_cache=True: a forward pass of two models keeps no cache; call generate, or use_cache=False")
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        hidden = [model(**inputs).logits for model in (self.target, self.reinforced)]
        return CausalLMOutput(logits=self.head(torch.cat(hidden, dim=-1)))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: GenerationConfig,
        logits_processor: LogitsProcessorList | None = None,
    ) -> Tensor:
        """(B, T) left-padded ids -> (B, T + new) ids, greedy or sampled, as `generate` of Hugging Face models.

        The target's own `generate` leads. Whatever it feeds to the target (the prompt, then one token at a time, with mask and
        positions), the reinforced model is fed too, with a cache of its own; so each token passes each model once.
        Raises ValueError for beam search, which would have to reorder that cache.
        """
        if (generation_config.num_beams or 1) > 1:
            raise ValueError(f"num_beams={generation_config.num_beams}: two models generate together without beams; use 1")
        cache = DynamicCache(config=self.reinforced.config)

        def combine(_module: nn.Module, _args: tuple, inputs: dict, output: CausalLMOutput) -> CausalLMOutput:
            own = {} if inputs.get("past_key_values") is None else {"past_key_values": cache}
            theirs = self.reinforced(**{**inputs, **own})
            output.logits = self.head(torch.cat([output.logits, theirs.logits], dim=-1))
            return output

        handle = self.target.register_forward_hook(combine, with_kwargs=True)
        try:
            return self.target.generate(
                input_ids, attention_mask=attention_mask, generation_config=generation_config, logits_processor=logits_processor
            )
        finally:
            handle.remove()


def load_combined(
    model: DictConfig, path: str, alpha: float, tokenizer: PreTrainedTokenizerBase, precision: Precision, seed: int
) -> CombinedModel:
    """The model of `model.path` combined with the one of `reinforced.path`; adapters are merged into their bases.

    tokenizer: the target's. Raises ModelError if one cannot be loaded, or they have different tokenizers or the same weights.
    """
    check_combined(model.path, path)
    theirs = OmegaConf.merge(model, {"path": path})
    with _about_reinforced():
        vocabulary = load_tokenizer(theirs).get_vocab()
    if vocabulary != tokenizer.get_vocab():
        raise ModelError(
            f"reinforced.path={path}: its tokenizer is not that of model.path={model.path}, so their logits are "
            "about different tokens; give the target itself, finetuned"
        )
    with _about_reinforced():
        reinforced = load_model(theirs, tokenizer, precision, seed)
    target = load_model(model, tokenizer, precision, seed)
    if _same_weights(target, reinforced):
        raise ModelError(
            f"reinforced.path={path} holds the weights of model.path={model.path}, so nothing would be unlearned; give "
            "a model that was trained on what is to be forgotten"
        )
    return CombinedModel(target, reinforced, alpha)


def _without_head(model: nn.Module) -> nn.Module:
    """The model with nothing in the place of its output head: it returns the head's input as its logits."""
    head = output_head(model)
    name = next(name for name, module in model.named_modules() if module is head)
    model.set_submodule(name, nn.Identity())
    return model


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters agree; ends at the first that does not."""
    pairs = zip(one.parameters(), other.parameters(), strict=False)
    return all(torch.equal(left, right) for left, right in pairs)


@contextmanager
def _about_reinforced() -> Iterator[None]:
    """Within the block, errors of loading name the key that the user set."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace("model.path", "reinforced.path")) from error
