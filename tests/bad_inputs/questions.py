"""Benchmarks, judges, probes and measures with a value that is none: script | overrides | how the sentence begins."""

ROWS = r"""
unlearn  | benchmark.name=a/b | benchmark.name=a/b: write a name of letters, digits and . _ + -
unlearn  | benchmark.name=5 | benchmark.name=5: write a name of letters, digits and . _ + -
evaluate | probe=sample ; probe.name=../x | probe.name=../x: write a name of letters, digits and . _ + -
evaluate | benchmark._target_=5 | benchmark._target_=5: write the dotted name of a class
evaluate | benchmark.metrics=5 | benchmark.metrics=5: write its options one by one
evaluate | benchmark.hub=5 | benchmark.hub=5: write a text, in quotes where it looks like a number
evaluate | benchmark.revision=null | benchmark.revision=null: write a text, in quotes where it looks like a number
evaluate | benchmark.rows=true | benchmark=tofu: benchmark.rows=True: write all, or a whole number from 1 (original code: 300)
evaluate | benchmark.rows=0 | benchmark=tofu: benchmark.rows=0: write all, or a whole number from 1 (original code: 300)
evaluate | benchmark.rows=1.5 | benchmark=tofu: benchmark.rows=1.5: write all, or a whole number from 1 (original code: 300)
evaluate | benchmark.retain_rows=all | benchmark=tofu: benchmark.retain_rows=all: write null, or a whole number from 1
evaluate | benchmark.max_new_tokens=0 | benchmark=tofu: benchmark.max_new_tokens=0: write a whole number from 1 (published runs:
evaluate | benchmark.max_new_tokens=true | benchmark=tofu: benchmark.max_new_tokens=True: write a whole number from 1 (published
evaluate | benchmark.truth_ratio=mean | benchmark=tofu: benchmark.truth_ratio=mean: write one of geometric, arithmetic
evaluate | benchmark=muse ; benchmark.corpus=novels | benchmark=muse: benchmark.metrics.corpus=novels: write one of news, books,
evaluate | benchmark=muse ; benchmark.piece_length=0 | benchmark=muse: benchmark.piece_length=0: write auto, or a whole number
evaluate | benchmark=muse ; benchmark.text_length=1.5 | benchmark=muse: benchmark.text_length=1.5: write null, or a whole number
evaluate | benchmark=muse ; benchmark.metrics.corpus=abc | benchmark=muse: benchmark.metrics.corpus=abc: write one of news,
evaluate | benchmark=muse ; benchmark.metrics.retrained_auc=mine | benchmark=muse: benchmark.metrics.retrained_auc=mine: write
evaluate | benchmark=muse ; benchmark.hub.news=5 | benchmark.hub={'news': 5, 'books': 'muse-bench/MUSE-Books'}: write options,
evaluate | benchmark=muse ; compat=meow_released | compat=meow_released: means nothing on benchmark=muse; write one of none,
evaluate | benchmark=knowundo ; benchmark.domain=public | benchmark=knowundo: benchmark.domain=public: write one of privacy,
evaluate | benchmark=knowundo ; benchmark.prompted=1 | benchmark=knowundo: benchmark.prompted=1: write true or false
evaluate | benchmark=knowundo ; benchmark.authors=0 | benchmark=knowundo: benchmark.authors=0: write null, or a whole number from
evaluate | benchmark=knowundo ; benchmark.template=mine | benchmark=knowundo: benchmark.template=mine: write one of own, model
evaluate | benchmark=knowundo ; benchmark.general_file=5 | benchmark.general_file=5: write a text, in quotes where it looks like
evaluate | benchmark=completion ; benchmark.holdout=1 | benchmark=completion: benchmark.holdout=1: write a share of the passages,
evaluate | benchmark=completion ; benchmark.holdout=nan | benchmark=completion: benchmark.holdout=nan: write a share of the
evaluate | benchmark=completion ; benchmark.words=0 | benchmark=completion: benchmark.words=0: write a whole number from 1
evaluate | benchmark=completion ; benchmark.prefix=400 | benchmark=completion: benchmark.prefix=400: with benchmark.words=380 a
evaluate | benchmark=completion ; benchmark.instructions=7 | benchmark.instructions=7: there are 6 train instructions; write fewer
evaluate | benchmark=completion ; benchmark.book=nowhere.txt | benchmark.book=nowhere.txt: there is no such file, nor is it in
evaluate | benchmark=completion ; benchmark.book=5 | benchmark.book=5: write a text, in quotes where it looks like a number or a
evaluate | benchmark=nlg ; benchmark.corpora=[] | benchmark=nlg: benchmark.corpora=[]: write a list out of wikitext, cc_news,
evaluate | benchmark=nlg ; benchmark.corpora=5 | benchmark=nlg: benchmark.corpora=5: write a list out of wikitext, cc_news, each
evaluate | benchmark=nlg ; benchmark.mauve=maybe | benchmark=nlg: benchmark.mauve=maybe: write true or false
evaluate | benchmark=nlg ; benchmark.scored=half | benchmark=nlg: benchmark.scored=half: write one of continuation, whole
evaluate | benchmark=nlu ; benchmark.tasks=[arc] | benchmark=nlu: benchmark.tasks=['arc']: write a list out of arc_challenge,
evaluate | benchmark=nlu ; benchmark.shots=-1 | benchmark=nlu: benchmark.shots=-1: write a whole number from 1
evaluate | benchmark=nlu ; benchmark.form=mine | benchmark=nlu: benchmark.form=mine: write one of paper, meow
evaluate | benchmark=utility ; benchmark.tasks=boolq | benchmark=utility: benchmark.tasks=boolq: write a list out of boolq, rte,
evaluate | benchmark=utility ; benchmark.limit=0 | benchmark=utility: benchmark.limit=0: write null, or a whole number from 1
evaluate | benchmark=utility ; benchmark.num_fewshot=-1 | benchmark=utility: benchmark.num_fewshot=-1: write a whole number from 0
evaluate | benchmark=utility ; benchmark.max_length=abc | benchmark=utility: benchmark.max_length=abc: write null, or a whole
evaluate | benchmark=safety ; benchmark.judge=nobody | benchmark=safety: benchmark.judge=nobody: write one of auto, none,
evaluate | benchmark=safety ; benchmark.harmful_rows=0 | benchmark=safety: benchmark.harmful_rows=0: write all, or a whole number
evaluate | benchmark=safety ; benchmark.normal_rows=every | benchmark=safety: benchmark.normal_rows=every: write one of each,
evaluate | benchmark=safety ; benchmark.split_seed=abc | benchmark.split_seed=abc: write a whole number
evaluate | benchmark=safety ; benchmark.judges=none | benchmark.judges=none: write options, each its options one by one
evaluate | benchmark=safety ; benchmark.judges.keywords=5 | benchmark.judges={'keywords': 5, 'beaver_dam': {'_target_':
evaluate | benchmark=safety ; benchmark.judges.keywords.phrases=5 | benchmark.judges.keywords.phrases=5: write a text, in quotes
evaluate | benchmark=safety ; benchmark.judges.beaver_dam.threshold=1 | benchmark=safety: judge.threshold=1: write a probability
evaluate | benchmark=safety ; benchmark.judges.beaver_dam.dtype=int8 | benchmark=safety: judge.dtype=int8: write one of float32,
evaluate | benchmark=safety ; benchmark.judges.beaver_dam.text=none | benchmark=safety: judge.text=none: write {output} where the
evaluate | benchmark=safety ; benchmark.judges.endpoint.url=5 | benchmark=safety: judge.url=5: write a URL such as https://HOST/v1
evaluate | benchmark=safety ; benchmark.judges.endpoint.url=ftp://host | benchmark=safety: judge.url=ftp://host: write a URL such
evaluate | benchmark=safety ; benchmark.judges.endpoint.url=https://me:secret@host/v1 | benchmark=safety:
evaluate | benchmark=safety ; benchmark.judges.endpoint.url='https://host/v1?token=abc' | benchmark=safety:
evaluate | benchmark=safety ; benchmark.judges.endpoint.max_cost=-1 | benchmark=safety: judge.max_cost=-1: write a number from 0,
evaluate | benchmark=safety ; benchmark.judges.endpoint.prompt_price=abc | benchmark=safety: judge.prompt_price=abc: write a
evaluate | benchmark=safety ; benchmark.base_run=5 | benchmark.base_run=5: write a text, in quotes where it looks like a number
evaluate | probe=sample ; probe.temperature=nan | probe=sample: temperature=nan: write a number above 0; most likely answers need
evaluate | probe=sample ; probe.temperature=0 | probe=sample: temperature=0: write a number above 0; most likely answers need no
evaluate | probe=sample ; probe.top_p=0 | probe=sample: top_p=0: write a probability above 0 and up to 1 (1: all tokens)
evaluate | probe=sample ; probe.seed=-1 | probe=sample: seed=-1: write a whole number from 0
evaluate | probe=prefix ; probe.given=1.5 | probe=prefix: probe.given=1.5: write a whole number of words from 0, or a share of
evaluate | probe=prefix ; probe.given=-1 | probe=prefix: probe.given=-1: write a whole number of words from 0, or a share of them
evaluate | probe=prefix ; probe.given=0 | probe=prefix: probe.given=0 and probe.push='': nothing would change; set one of them,
evaluate | probe=prefix ; probe.push=5 | probe=prefix: probe.push=5: write the words in front of the question, or an empty text
evaluate | probe=paraphrase ; probe.source=mine | probe=paraphrase: probe.source=mine: write one of auto, data, wordings
evaluate | probe=paraphrase ; probe.wordings=[] | probe=paraphrase: probe.wordings=[]: write a list of sentences with {question}
evaluate | probe=paraphrase ; probe.wordings=abc | probe=paraphrase: probe.wordings=abc: write a list of sentences with
evaluate | probe=paraphrase ; probe.wordings=[no slot] | probe=paraphrase: probe.wordings=['no slot']: write a list of sentences
evaluate | probe=paraphrase ; probe.wordings=5 | probe.wordings=5: write a list, each of it a text, in quotes where it looks like
evaluate | measure=[leak] ; measure.leak=null | measure.leak=None: write its options one by one, as in measure.leak.OPTION=VALUE
evaluate | measure=[leak] ; measure.leak=abc | measure.leak=abc: write its options one by one, as in measure.leak.OPTION=VALUE
evaluate | measure=[leak] ; measure.leak.ks=5 | measure.leak.ks=5: write a list, each of it a whole number
evaluate | measure=[leak] ; measure.leak.ks=[0] | measure=leak: measure.leak.ks=[0]: write a list of different whole numbers from
evaluate | measure=[leak] ; measure.leak.n=0 | measure=leak: measure.leak.n=0: write a whole number from 1 (answers; published:
evaluate | measure=[leak] ; measure.leak.threshold=nan | measure=leak: measure.leak.threshold=nan: write a number above 0 and up
evaluate | measure=[leak] ; measure.leak.name=../x | measure.leak.name=../x: write a name of letters, digits and . _ + -
evaluate | measure=[membership] ; measure.membership.k=0 | measure=membership: measure.membership.k=0: write a number above 0 and
evaluate | measure=[membership] ; measure.membership.k=[0.2,0.2] | measure=membership: measure.membership.k=[0.2, 0.2]: write a
evaluate | measure=[membership] ; measure.membership.drop_eos=1 | measure=membership: measure.membership.drop_eos=1: write one of
evaluate | measure=[gradnorm] ; measure.gradnorm.p=0 | measure=gradnorm: measure.gradnorm.p=0: write a number above 0
evaluate | measure=[gradnorm] ; measure.gradnorm.p=inf | measure=gradnorm: measure.gradnorm.p=inf: write a number above 0
evaluate | measure=[gradnorm] ; measure.gradnorm.train_mode=1 | measure=gradnorm: measure.gradnorm.train_mode=1: write true or
evaluate | measure=[fluency] ; measure.fluency.label=-1 | measure=fluency: measure.fluency.label=-1: write a whole number from 0
evaluate | measure=[fluency] ; measure.fluency.classifier=nowhere/a/b | measure.fluency.classifier=nowhere/a/b: cannot be loaded
evaluate | measure=[memorization] ; measure.memorization.tasks=none | measure=memorization: measure.memorization.tasks=none:
evaluate | measure=[memorization] ; measure.memorization.floor=1 | measure=memorization: measure.memorization.floor=1: write one
"""
