"""Command lines that are refused before Hydra reads them: script | words | how the sentence begins."""

ROWS = r"""
unlearn  | metod=flat | metod=flat: there is no key metod; did you mean method or
unlearn  | methods=flat | methods=flat: there is no key methods; did you mean method or
unlearn  | lerning_rate=1 | lerning_rate=1: there is no key lerning_rate; there are adapter, batch_size,
unlearn  | method=flta | method=flta: there is no such method; did you mean flat?
unlearn  | method=npo,flta ; -m | method=flta: there is no such method; did you mean flat?
unlearn  | method=5 | method=5: there is no such method; there are adversarial,
unlearn  | method=[npo,flat] | method=[npo,flat]: write one name, or add -m and write names without brackets for one run each
unlearn  | model=tiy | model=tiy: there is no such model; did you mean tiny?
unlearn  | model={a: 1} | model={'a': 1}: there is no such model; there are
unlearn  | launcher=fsdp | launcher=fsdp: there is no such launcher; did you mean fsdp2?
unlearn  | benchmark=null | benchmark=None: there is no such benchmark; there are completion,
unlearn  | ~model | model=None: there is no such model; there are
unlearn  | measure=[leak] | measure=[leak]: unlearn.py has no measure (it belongs to evaluate.py); leave it out
unlearn  | +measure=leak | +measure=leak: unlearn.py has no measure (it belongs to evaluate.py); leave it out
unlearn  | probe=sample | probe=sample: unlearn.py has no probe (it belongs to evaluate.py); leave it out
finetune | probe=none | probe=none: finetune.py has no probe (it belongs to evaluate.py); leave it out
evaluate | method=flat | method=flat: evaluate.py has no method (it belongs to finetune.py and unlearn.py); leave it out
evaluate | adapter=lora | adapter=lora: evaluate.py has no adapter (it belongs to finetune.py and unlearn.py); leave it out
evaluate | launcher=auto | launcher=auto: evaluate.py has no launcher (it belongs to finetune.py and unlearn.py)
evaluate | measure=[lek] | measure=lek: there is no such measure; did you mean leak?
evaluate | epochs=3 | epochs=3: there is no key epochs;
unlearn  | method.loss=[a] | method.loss=[a]: write its options one by one, as in method.loss.OPTION=VALUE
unlearn  | method.loss={a: 1} | method.loss={a: 1}: there is no key method.loss.a; there are _target_, divergence,
unlearn  | model.lr=[1] | model.lr=[1]: write its options one by one, as in model.lr.OPTION=VALUE
unlearn  | model.template={knd: plain} | model.template={knd: plain}: there is no key model.template.knd; did you mean kind?
unlearn  | method.loss.divergense=kl | method.loss.divergense=kl: there is no key method.loss.divergense; did you mean
unlearn  | model.path.x=1 | model.path.x=1: there is no key model.path.x; did you mean model.path
unlearn  | seed=1,2 | seed=1,2: several values are a sweep; add -m to run one after the other
unlearn  | out=runs/a,b | out=runs/a,b: several values are a sweep; add -m to run one after the other
unlearn  | epochs=range(1,4) | epochs=range(1,4): several values are a sweep; add -m
unlearn  | method=flat,npo | method=flat,npo: several values are a sweep; add -m
unlearn  | +seed=3 | command line: Could not append to config. An item is already at 'seed'.
unlearn  | hydra.foo=1 | command line: Could not override 'hydra.foo'.
unlearn  | hydra.run.dir=null | command line: Error merging override hydra.run.dir=null
unlearn  | hydra/launcher=abc | command line: In 'hydra/config': Could not find 'hydra/launcher/abc'
unlearn  | method@x=flat | command line: Could not override 'method@x'.
unlearn  | method | method: not understood; write key=value
unlearn  | method flat | method flat: not understood; write key=value
unlearn  | out=a(b | out=a(b: not understood; write key=value, with quotes around a value that holds brackets
unlearn  | lr=${ | lr=${: not understood; write key=value
unlearn  | =3 | =3: there is no key ;
unlearn  | data_root=https://me:word@host/x | data_root=***: holds a password, key or token, which the run would keep
unlearn  | model.path=hf_abcdefghijklmnopqrst | model.path=***: holds a password, key or token
unlearn  | +wandb.api_key=abc | wandb.api_key=***: holds a password, key or token
unlearn  | +hub.token=abc | hub.token=***: holds a password, key or token
unlearn  | out=runs/sk-abcdefghijklmnopqrstuv | out=***: holds a password, key or token
"""
