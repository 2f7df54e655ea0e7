"""Dials of the three scripts with a value that is none: script | overrides | how the sentence begins."""

ROWS = r"""
unlearn  | seed=null | seed=None: write a whole number from 0
unlearn  | seed=-1 | seed=-1: write a whole number from 0
unlearn  | seed=1.5 | seed=1.5: write a whole number from 0
unlearn  | seed=true | seed=True: write a whole number from 0
unlearn  | seed=4294967296 | seed=4294967296: write a whole number from 0 to 2147483647
unlearn  | seed=[1] | seed=[1]: write a whole number from 0
unlearn  | resume=1 | resume=1: write true or false
unlearn  | overwrite=abc | overwrite=abc: write true or false
unlearn  | override_model=null | override_model=None: write true or false
evaluate | trust_oracle=1 | trust_oracle=1: write true or false
evaluate | rescore=maybe | rescore=maybe: write true or false
unlearn  | show_prompts=-1 | show_prompts=-1: write a whole number from 0
unlearn  | show_prompts=all | show_prompts=all: write a whole number from 0
unlearn  | cache_gib=-1 | cache_gib=-1: write a number from 0, or null for no limit
unlearn  | cache_gib=nan | cache_gib=nan: write a number from 0, or null for no limit
unlearn  | cache_gib=1e39 | cache_gib=1e+39: write a number from 0, or null for no limit
unlearn  | cache=true | cache=True: write a path, with ./ before one that looks like a number
unlearn  | cache=5 | cache=5: write a path, with ./ before one that looks like a number
unlearn  | cache='' | cache=: write a path, with ./ before one that looks like a number
unlearn  | cache=[a] | cache=['a']: write a path, with ./ before one that looks like a number
unlearn  | cache={a: 1} | cache={'a': 1}: write a path, with ./ before one that looks like a number
unlearn  | out=5 | out=5: write a path, with ./ before one that looks like a number
unlearn  | out='' | out=: write a path, with ./ before one that looks like a number
unlearn  | out=true | out=True: write a path, with ./ before one that looks like a number
unlearn  | out=[a] | out=['a']: write a path, with ./ before one that looks like a number
unlearn  | out=1e39 | out=1e+39: write a path, with ./ before one that looks like a number
unlearn  | data_root=null | data_root=None: write a path, with ./ before one that looks like a number
unlearn  | data_root=5 | data_root=5: write a path, with ./ before one that looks like a number
unlearn  | data_root='' | data_root=: write a path, with ./ before one that looks like a number
unlearn  | data_root=[fixture] | data_root=['fixture']: write a path, with ./ before one that looks like a number
unlearn  | data_root=nowhere | data_root=nowhere: nowhere/tofu/forget10.json does not exist; the folder nowhere/tofu is missing
unlearn  | precision=bf16 | precision=bf16: write one of auto, float32, bfloat16, bfloat16_pure; did you mean bfloat16?
unlearn  | precision=null | precision=None: write one of auto, float32, bfloat16, bfloat16_pure
unlearn  | precision=32 | precision=32: write one of auto, float32, bfloat16, bfloat16_pure
unlearn  | compat=tofu | compat=tofu: write one of none, tofu_original, open_unlearning, flat_released, muse_released,
unlearn  | compat=true | compat=True: write one of none, tofu_original, open_unlearning, flat_released, muse_released,
unlearn  | lr=0 | lr=0: write a number above 0
unlearn  | lr=-1e-5 | lr=-1e-05: write a number above 0
unlearn  | lr=nan | lr=nan: write a number above 0
unlearn  | lr=inf | lr=inf: write a number above 0
unlearn  | lr=-inf | lr=-inf: write a number above 0
unlearn  | lr=1e39 | lr=1e+39: write a number above 0 to 1.7e+38
unlearn  | lr=true | lr=True: write a number above 0
unlearn  | lr=null | lr=None: write a number above 0
unlearn  | lr=fast | lr=fast: write a number above 0
unlearn  | lr=[1e-5] | lr=[1e-05]: write a number above 0
unlearn  | epochs=0 | epochs=0: write a number above 0
unlearn  | epochs=-1 | epochs=-1: write a number above 0
unlearn  | epochs=nan | epochs=nan: write a number above 0
unlearn  | epochs=1e39 | epochs=1e+39: write a number above 0 to 1.7e+38
unlearn  | epochs=10000000 | epochs=10000000: write a number above 0 and up to 1e+06
unlearn  | epochs=five | epochs=five: write a number above 0
unlearn  | steps=0 | steps=0: write a whole number from 1 (optimizer steps, or null)
unlearn  | steps=1.5 | steps=1.5: write a whole number from 1 (optimizer steps, or null)
unlearn  | steps=true | steps=True: write a whole number from 1 (optimizer steps, or null)
unlearn  | steps=99999999999 | steps=99999999999: write a whole number from 1 to 2147483647 (optimizer steps, or null)
unlearn  | batch_size=0 | batch_size=0: write a whole number from 1 (the global batch)
unlearn  | batch_size=2.5 | batch_size=2.5: write a whole number from 1 (the global batch)
unlearn  | batch_size=null | batch_size=None: write a whole number from 1 (the global batch)
unlearn  | batch_size=nan | batch_size=nan: write a whole number from 1 (the global batch)
unlearn  | batch_size=true | batch_size=True: write a whole number from 1 (the global batch)
unlearn  | per_device_batch_size=0 | per_device_batch_size=0: write auto, or a whole number from 1
unlearn  | per_device_batch_size=many | per_device_batch_size=many: write auto, or a whole number from 1
unlearn  | per_device_batch_size=3 | per_device_batch_size=3: does not divide the 16 items that each of 1 process(es) takes of
unlearn  | per_device_batch_size=true | per_device_batch_size=True: write auto, or a whole number from 1
unlearn  | weight_decay=-0.1 | weight_decay=-0.1: write a number from 0
unlearn  | weight_decay=nan | weight_decay=nan: write a number from 0
unlearn  | weight_decay=1e39 | weight_decay=1e+39: write a number from 0
unlearn  | warmup=1.5 | warmup=1.5: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | warmup=-1 | warmup=-1: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | warmup=nan | warmup=nan: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | warmup=true | warmup=True: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | warmup=epch | warmup=epch: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | warmup=null | warmup=None: write epoch, a whole number of steps, or a share of all steps below 1
unlearn  | scheduler=cosin | scheduler=cosin: write one of linear, cosine, constant, constant_with_warmup; did you mean cosine?
unlearn  | scheduler=null | scheduler=None: write one of linear, cosine, constant, constant_with_warmup; did you mean cosine?
unlearn  | optimizer=adam | optimizer=adam: write an optimizer of transformers, such as adamw_torch; did you mean adalomo or
unlearn  | optimizer=5 | optimizer=5: write an optimizer of transformers, such as adamw_torch
unlearn  | optimizer=null | optimizer=None: write an optimizer of transformers, such as adamw_torch
unlearn  | max_grad_norm=-1 | max_grad_norm=-1: write a number from 0 (0: no clipping)
unlearn  | max_grad_norm=inf | max_grad_norm=inf: write a number from 0 (0: no clipping)
unlearn  | max_grad_norm=null | max_grad_norm=None: write a number from 0 (0: no clipping)
unlearn  | gradient_checkpointing=1 | gradient_checkpointing=1: write true or false
unlearn  | reference=cachd | reference=cachd: write one of auto, adapter, cached, resident; did you mean cached?
unlearn  | reference=null | reference=None: write one of auto, adapter, cached, resident
unlearn  | reference_cache_gib=-1 | reference_cache_gib=-1: write a number from 0
unlearn  | reference_cache_gib=nan | reference_cache_gib=nan: write a number from 0
unlearn  | log_every=0 | log_every=0: write a whole number from 1 (steps)
unlearn  | log_every=true | log_every=True: write a whole number from 1 (steps)
unlearn  | checkpoint=0 | checkpoint=0: write minutes such as 10m, epoch, none, or a number of steps
unlearn  | checkpoint=never | checkpoint=never: write minutes such as 10m, epoch, none, or a number of steps
unlearn  | checkpoint=-5m | checkpoint=-5m: write minutes such as 10m, epoch, none, or a number of steps
unlearn  | checkpoint=true | checkpoint=True: write minutes such as 10m, epoch, none, or a number of steps
unlearn  | checkpoints_kept=0 | checkpoints_kept=0: write a whole number from 1 (checkpoints)
unlearn  | snapshots=0 | snapshots=0: write none, or a whole number of steps from 1
unlearn  | snapshots=true | snapshots=True: write none, or a whole number of steps from 1
unlearn  | snapshots=1.5 | snapshots=1.5: write none, or a whole number of steps from 1
unlearn  | report_to=wand | report_to=wand: write one of none, tensorboard, wandb, trackio; did you mean wandb?
unlearn  | report_to=true | report_to=True: write one of none, tensorboard, wandb, trackio
unlearn  | workers=-1 | workers=-1: write a whole number from 0
unlearn  | workers=1.5 | workers=1.5: write a whole number from 0
unlearn  | refusals=null | refusals=None: write a path, with ./ before one that looks like a number
unlearn  | refusals=5 | refusals=5: write a path, with ./ before one that looks like a number
unlearn  | refusals=nowhere.txt | refusals=nowhere.txt: write the name of a text file that exists, one refusal per line
unlearn  | split=forget7 | split=forget7: write one of forget01, forget05, forget10, forget20, forget30, forget50, forget90; did
unlearn  | split=null | split=None: write one of forget01, forget05, forget10, forget20, forget30, forget50, forget90
unlearn  | split=true | split=True: write one of forget01, forget05, forget10, forget20, forget30, forget50, forget90
unlearn  | split=../forget10 | split=../forget10: write the name of a split
unlearn  | split=forget10+forget05 | split=forget10+forget05: write one of forget01, forget05, forget10, forget20, forget30,
evaluate | split=retain90 | split=retain90: write one of forget01, forget05, forget10, forget20, forget30, forget50, forget90;
evaluate | resamples=10 | resamples=10: write a whole number from 100
evaluate | resamples=inf | resamples=inf: write a whole number from 100
evaluate | resamples=true | resamples=True: write a whole number from 100
evaluate | generation_batch_size=0 | generation_batch_size=0: write a whole number from 1
evaluate | generation_batch_size=abc | generation_batch_size=abc: write a whole number from 1
evaluate | tokens_per_batch=0 | tokens_per_batch=0: write a whole number from 1
evaluate | tokens_per_batch=1e39 | tokens_per_batch=1e+39: write a whole number from 1
evaluate | oracle=5 | oracle=5: write a path, with ./ before one that looks like a number
evaluate | oracle=runs/nowhere | oracle=runs/nowhere: there is no such folder. Make one with: python finetune.py model=tiny
evaluate | oracle=[a] | oracle=['a']: write a path, with ./ before one that looks like a number
evaluate | null_runs=abc | null_runs=abc: write a list of run folders
evaluate | null_runs=[5,6] | null_runs=5: write a path, with ./ before one that looks like a number
evaluate | from_logs=5 | from_logs=5: write a path, with ./ before one that looks like a number
evaluate | from_logs=nowhere.json | from_logs=nowhere.json: there is no such file; with from_logs both are logs of the
evaluate | reinforced.path=5 | reinforced.path=5: write a path, with ./ before one that looks like a number
evaluate | reinforced.alpha=0 | reinforced.alpha=0: write a number above 0
evaluate | reinforced.alpha=nan | reinforced.alpha=nan: write a number above 0
evaluate | reinforced.name=5 | reinforced.name=5: write a text, in quotes where it looks like a number
finetune | split=full+full | split=full+full: the rows of full would be read twice; name no part that lies in another
finetune | split=full+forget10 | split=full+forget10: the rows of full would be read twice; name no part that lies in another
finetune | split=retain90+retain95 | split=retain90+retain95: the rows of retain90 would be read twice; name no part that lies in
finetune | split=retain7 | split=retain7: write one of full, forget01, forget05, forget10, forget20, forget30, forget50,
finetune | split=full+ | split=: write one of full, forget01, forget05, forget10, forget20, forget30, forget50, forget90,
finetune | split='' | split=: write one of full, forget01, forget05, forget10, forget20, forget30, forget50, forget90, retain99,
unlearn  | reference=adapter | reference=adapter: there is no adapter to switch off; use reference=cached, or adapter=lora
"""
