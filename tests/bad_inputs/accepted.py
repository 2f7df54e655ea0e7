"""Doubtful values that are accepted: script | overrides | why."""

ROWS = r"""
unlearn  | cache=null | null is in memory, as config/base.yaml says
unlearn  | out=runs/a=b#c | a path may hold any letter that can be printed
unlearn  | lr=1.5 | large, but some optimizers want it so; a loss that is not finite ends the run
unlearn  | weight_decay=1.5 | large, but it is a number that trains
unlearn  | max_grad_norm=0 | 0 is no clipping, as config/training.yaml says
unlearn  | reference_cache_gib=0 | nothing is written to disk, and the reference comes from elsewhere
unlearn  | cache_gib=0 | all that no live run uses goes at once
unlearn  | model.name=abc | a model file may have any name
unlearn  | method.name=abc | a method file may have any name
unlearn  | model.architecture.hidden_size=130 | nobody reads the architecture where model.path is set
unlearn  | model.lora.r=null | nobody reads it without an adapter
unlearn  | adapter=lora ; adapter.lora.r=null | the model's own rank counts
unlearn  | model.lora.target_modules=abc | the names of layers are the model's: PEFT says in one sentence that none fits
unlearn  | model.template.answer_tag='' | a prompt without a tag is a prompt
"""
