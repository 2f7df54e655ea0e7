"""Methods, adapters and launchers with a value that is none: script | overrides | how the sentence begins."""

ROWS = r"""
unlearn  | method=memorise | method=memorise: belongs to finetune.py, not to unlearn.py
finetune | method=flat | method=flat: belongs to unlearn.py, not to finetune.py
unlearn  | method.name=x/../../../evil | method.name=x/../../../evil: write a name of letters, digits and . _ + -
unlearn  | method.name=null | method.name=None: write a name of letters, digits and . _ + -
unlearn  | method.name=/tmp/evil | method.name=/tmp/evil: write a name of letters, digits and . _ + -
unlearn  | method.name=. | method.name=.: write a name of letters, digits and . _ + -
unlearn  | adapter.name=lorra | adapter.name=lorra: write one of none, lora, qlora, continue; did you mean lora or qlora?
unlearn  | adapter=lora ; adapter.lora.r=0 | adapter.lora.r=0: write a whole number from 1
unlearn  | adapter=lora ; adapter.lora.dropout=1 | adapter.lora.dropout=1: write a number from 0 and below 1
unlearn  | adapter=lora ; adapter.lora.alpha=true | adapter.lora.alpha=True: write a number above 0
unlearn  | adapter=lora ; adapter.lora=abc | adapter.lora=abc: write its options one by one, as in adapter.lora.OPTION=VALUE
unlearn  | adapter=continue | adapter=continue: model.path=
unlearn  | launcher.name=fsdp | launcher.name=fsdp: write one of auto, zero2, fsdp2; did you mean fsdp2?
unlearn  | launcher=fsdp2 | launcher=fsdp2: shards a model over several processes; start with torchrun --nproc_per_node=N, or
unlearn  | launcher=zero2 ; launcher.deepspeed=abc | launcher.deepspeed=abc: write its options one by one, as in
unlearn  | launcher=zero2 ; reference=resident | reference=resident: a second model is not sharded by the launcher; use
finetune | adapter=lora | adapter=lora: model.path=null draws random weights, and an adapter is kept without the weights under
unlearn  | method.loss=null | method.loss=null: write its options one by one
unlearn  | method.loss=5 | method.loss=5: write its options one by one
unlearn  | method.loss._target_=5 | method.loss._target_=5: write the dotted name of a class
unlearn  | method.loss._target_=losses.npo.NOP | method.loss._target_=losses.npo.NOP: is no class of Python (Error loading
unlearn  | method.loss._target_=nowhere.Loss | method.loss._target_=nowhere.Loss: is no class of Python (Error loading
unlearn  | method.loss.divergence=tvv | method.loss: divergence=tvv: write one of kl, tv, js, pearson, jeffrey, reverse_kl,
unlearn  | method.loss.p_norm=null | method.loss: p_norm=None: write one of paper, flat
unlearn  | method.loss.padded_length=0 | method.loss: padded_length=0: write a whole number from 2
unlearn  | method.loss.padded_length=true | method.loss: padded_length=True: write a whole number from 2
unlearn  | method.loss.signs=5 | method.loss: signs=5: write one of paper, flat
unlearn  | method.templates=null | method=flat: method.templates=null: the loss reads template answers; write {kind: refusal,
unlearn  | method.templates=refusal | method.templates=refusal: write its options one by one or null
unlearn  | method.templates.kind=refuse | method.templates: kind=refuse: write one of refusal, normal; did you mean refusal?
unlearn  | method.templates.policy=once | method.templates: policy=once: write one of per_access, fixed
unlearn  | method=npo ; method.loss.beta=0 | method.loss: beta=0: write a number above 0
unlearn  | method=npo ; method.loss.beta=nan | method.loss: beta=nan: write a number above 0
unlearn  | method=npo ; method.loss.beta=null | method.loss: beta=None: write a number above 0
unlearn  | method=npo ; method.loss.beta=abc | method.loss: beta=abc: write a number above 0
unlearn  | method=npo ; method.loss.retain=maybe | method.loss: retain=maybe: write one of none, nll, kl
unlearn  | method=npo ; method.loss.retain_weight=-1 | method.loss: retain_weight=-1: write a number from 0
unlearn  | method=npo ; method.loss.kl_span=padded | method.loss: kl_span=padded: write one of paper, text, open_unlearning,
unlearn  | method=npo ; method.loss.padded_length=1.5 | method.loss: padded_length=1.5: write a whole number from 2
unlearn  | method=dpo ; method.loss.factor=two | method.loss: factor=two: write one of two_over_beta, one
unlearn  | method=dpo ; method.loss.reference_free=1 | method.loss: reference_free=1: write true or false
unlearn  | method=ga ; method.loss.forget_weight=nan | method.loss: forget_weight=nan: write a number from 0
unlearn  | method=ga ; method.loss.forget_weight=-1 | method.loss: forget_weight=-1: write a number from 0
unlearn  | method=kto ; method.loss.reference_point=one | method.loss: reference_point=one: write one of template, zero
unlearn  | method=kto ; method.loss.template_weight=abc | method.loss: template_weight=abc: write a number from 0
unlearn  | method=simnpo ; method.loss.beta=nan | method.loss: beta=nan: write a number above 0
unlearn  | method=simnpo ; method.loss.beta=-1 | method.loss: beta=-1: write a number above 0
unlearn  | method=llmu ; method.loss.forget_weight=inf | method.loss: forget_weight=inf: write a number from 0
unlearn  | method=po ; method.loss.weighting=5 | method.loss: weighting=5: write one of paper, tofu
unlearn  | method=meow ; method.prepare=null | method=meow: method.prepare=null: the loss reads inverted, which only a prepare
unlearn  | method=meow ; method.prepare.k=0 | method.prepare: k=0: write a whole number from 1 (released: 3)
unlearn  | method=meow ; method.prepare.copies=true | method.prepare: copies=True: write a whole number from 1 (released: 4)
unlearn  | method=meow ; method.prepare.order=big | method.prepare: order=big: write one of largest, smallest, random
unlearn  | method=meow ; method.prepare.facts=5 | method.prepare.facts=5: write a text, in quotes where it looks like a number or
unlearn  | method=meow ; method.prepare.facts=nowhere.json | nowhere.json: cannot be read (No such file or directory)
unlearn  | method=meow ; method.prepare.memo.stride=0 | method.prepare: stride=0: write a whole number from 1 (characters;
unlearn  | method=meow ; method.prepare.memo=5 | method.prepare.memo=5: write its options one by one
unlearn  | method=meow ; method.loss.weight=nan | method.loss: weight=nan: write a number from 0
unlearn  | method=memflex ; benchmark=knowundo ; method.region=all | method.region=all: write its options one by one or null
unlearn  | method=memflex ; benchmark=knowundo ; method.region.mu=nan | method.region: mu=nan: write a number from -1
unlearn  | method=memflex ; benchmark=knowundo ; method.region.sigma=-1 | method.region: sigma=-1: write a number from 0
unlearn  | method=memflex ; benchmark=knowundo ; method.region.mu_quantile=2 | method.region: mu_quantile=2: write a number from
unlearn  | method=memflex ; benchmark=knowundo ; method.region.copies=0 | method.region: copies=0: write a whole number from 1
unlearn  | method=memflex ; benchmark=knowundo ; method.region.file=5 | method.region.file=5: write a text, in quotes where it
unlearn  | method=memflex ; benchmark=knowundo ; method.region.forget=nowhere | method.region.forget=nowhere: split=nowhere:
unlearn  | method=llmu_published ; benchmark=safety ; method.stop=abc | method.stop=abc: write its options one by one or null
unlearn  | method=llmu_published ; benchmark=safety ; method.stop.above=abc | method.stop: above=abc: write a number, or null to
unlearn  | method=llmu_published ; benchmark=safety ; method.stop.above=nan | method.stop: above=nan: write a number, or null to
unlearn  | method=llmu_published ; benchmark=safety ; method.stop.part=loss_of | method=llmu_published: method.stop.part=loss_of:
unlearn  | method=llmu_published ; benchmark=safety ; method.prepare.answers=0 | method.prepare: method.prepare.answers=0: write
unlearn  | method=sku ; benchmark=safety ; method.finish=abc | method.finish=abc: write its options one by one or null
unlearn  | method=sku ; benchmark=safety ; method.finish.coefficient=nan | method.finish: coefficient=nan: write a number above 0
unlearn  | method=ascent_plus_descent ; benchmark=knowundo ; method.prepare.general=1 | method.prepare: method.prepare.general=1:
unlearn  | method=ascent_plus_kl_divergence ; benchmark=knowundo ; method.reference_dropout=maybe | method.reference_dropout=maybe
unlearn  | method=ascent_plus_kl_divergence ; benchmark=knowundo ; reference=cached | reference=cached: with
"""
