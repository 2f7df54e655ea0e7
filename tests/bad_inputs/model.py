"""The model, its template and its architecture with a value that is none: script | overrides | how the sentence begins."""

ROWS = r"""
unlearn  | model.path=null | model.path=null: unlearning starts from a trained model; make one with: python finetune.py
unlearn  | model.path=5 | model.path=5: write a path, with ./ before one that looks like a number
unlearn  | model.path=[a] | model.path=['a']: write a path, with ./ before one that looks like a number
unlearn  | model.path=true | model.path=True: write a path, with ./ before one that looks like a number
unlearn  | model.path='' | model.path=: write a path, with ./ before one that looks like a number
unlearn  | model.path=runs/nowhere | model.path=runs/nowhere does not exist; give a run folder, a checkpoint folder or a Hub name
unlearn  | model.name=null | model.name=None: write a name of letters, digits and . _ + -
unlearn  | model.name=5 | model.name=5: write a name of letters, digits and . _ + -
unlearn  | model.name=a/b | model.name=a/b: write a name of letters, digits and . _ + -
unlearn  | model.name=.. | model.name=..: write a name of letters, digits and . _ + -
unlearn  | model.name="a b" | model.name=a b: write a name of letters, digits and . _ + -
finetune | model.tokenizer=null | model.tokenizer=null: with model.path=null nothing says which tokenizer; name a folder or
unlearn  | model.tokenizer=5 | model.tokenizer=5: write a path, with ./ before one that looks like a number
unlearn  | model.expects=null | model.expects=None: write its options one by one, as in model.expects.OPTION=VALUE
unlearn  | model.expects=abc | model.expects=abc: write its options one by one, as in model.expects.OPTION=VALUE
unlearn  | model.expects.vocab_size=0 | model.expects.vocab_size=0: write a whole number from 1
unlearn  | model.expects.vocab_size=abc | model.expects.vocab_size=abc: write a whole number from 1
unlearn  | model.expects.vocab_size=7 | model=tiny: model.path=
unlearn  | model.expects.model_type=5 | model.expects.model_type=5: write a text, in quotes where it looks like a number
unlearn  | model.trust_remote_code=maybe | model.trust_remote_code=maybe: write true or false
unlearn  | model.trust_remote_code=1 | model.trust_remote_code=1: write true or false
unlearn  | model.dtype=float16 | model.dtype=float16: write one of float32, bfloat16; did you mean bfloat16 or float32?
unlearn  | model.dtype=null | model.dtype=None: write one of float32, bfloat16
unlearn  | model.attn=flash | model.attn=flash: write one of auto, sdpa, eager, flash_attention_2, flash_attention_3
unlearn  | model.attn=null | model.attn=None: write one of auto, sdpa, eager, flash_attention_2, flash_attention_3
unlearn  | model.max_length=1 | model.max_length=1: write a whole number from 2 (tokens of prompt and answer)
unlearn  | model.max_length=null | model.max_length=None: write a whole number from 2 (tokens of prompt and answer)
unlearn  | model.max_length=10 | no item is left: all 20 prompts fill max_length=10; raise it
unlearn  | model.max_length=99999999999 | model.max_length=99999999999: write a whole number from 2 to 2147483647 (tokens of
unlearn  | model.lr=5 | model.lr=5: write its options one by one, as in model.lr.OPTION=VALUE
unlearn  | model.lr=null | model.lr=None: write its options one by one, as in model.lr.OPTION=VALUE
unlearn  | model.lr.finetune=nan | model.lr.finetune=nan: write a number above 0
unlearn  | model.lr.unlearn=abc | lr=abc: write a number above 0
unlearn  | model.epochs=5 | model.epochs=5: write its options one by one, as in model.epochs.OPTION=VALUE
unlearn  | model.epochs.finetune=0 | model.epochs.finetune=0: write a number above 0
unlearn  | model.lora=null | model.lora=None: write its options one by one, as in model.lora.OPTION=VALUE
unlearn  | model.lora.r=0 | model.lora.r=0: write a whole number from 1
unlearn  | model.lora.r=1.5 | model.lora.r=1.5: write a whole number from 1
unlearn  | model.lora.alpha=0 | model.lora.alpha=0: write a number above 0
unlearn  | model.lora.alpha=nan | model.lora.alpha=nan: write a number above 0
unlearn  | model.lora.dropout=1 | model.lora.dropout=1: write a number from 0 and below 1
unlearn  | model.lora.dropout=-0.1 | model.lora.dropout=-0.1: write a number from 0 and below 1
unlearn  | model.lora.target_modules=5 | model.lora.target_modules=5: write all-linear, or a list of names of layers
unlearn  | model.lora.target_modules=[] | model.lora.target_modules=[]: write all-linear, or a list of one name of a layer or more
unlearn  | model.lora.target_modules=[1] | model.lora.target_modules=1: write a text, in quotes where it looks like a number
unlearn  | model.template=plain | model.template=plain: write its options one by one, as in model.template.OPTION=VALUE
unlearn  | model.template.kind=char | model.template: template.kind=char: write one of plain, chat; did you mean chat?
unlearn  | model.template.kind=null | model.template: template.kind=None: write one of plain, chat
unlearn  | model.template.eos=maybe | model.template: template.eos=maybe: write true or false
unlearn  | model.template.eos=1 | model.template: template.eos=1: write true or false
unlearn  | model.template.question_start=5 | model.template: template.question_start=5: write a text in quotes
unlearn  | model.template.question_end=null | model.template: template.question_end=None: write a text in quotes
unlearn  | model.template.answer_tag=[a] | model.template: template.answer_tag=['a']: write a text in quotes
unlearn  | model.template.system=hello | model.template: template.system='hello' has no meaning for template.kind=plain: make it
unlearn  | model.template.date=tomorrow | model.template: template.date=tomorrow: write a day such as 26 Jul 2024
unlearn  | model.template.date=5 | model.template: template.date=5: write a day such as 26 Jul 2024
unlearn  | model.template.options=5 | model.template: template.options=5: write names and values that the chat template reads,
finetune | model.architecture=llama | model.architecture=llama: write its options one by one, as in
finetune | model.architecture=null | model.path=null: there is no model.architecture to draw weights for either; set model.path
finetune | model.architecture.hidden_size=130 | model.architecture: no model can be made of it (ValueError: The hidden size (130)
finetune | model.architecture.hidden_size=0 | model.architecture.hidden_size=0: write a whole number from 1
finetune | model.architecture.hidden_size=abc | model.architecture.hidden_size=abc: write a whole number from 1
finetune | model.architecture.hidden_size=1.5 | model.architecture.hidden_size=1.5: write a whole number from 1
finetune | model.architecture.num_hidden_layers=0 | model.architecture.num_hidden_layers=0: write a whole number from 1
finetune | model.architecture.num_attention_heads=3 | model.architecture: no model can be made of it (ValueError: The hidden size
finetune | model.architecture.num_key_value_heads=3 | model.architecture: no model can be made of it (The size of tensor a (4)
finetune | model.architecture.intermediate_size=-1 | model.architecture.intermediate_size=-1: write a whole number from 1
finetune | model.architecture.max_position_embeddings=0 | model.architecture.max_position_embeddings=0: write a whole number from
finetune | model.architecture.model_type=lama | model.architecture: no model can be made of it (Unrecognized model identifier:
finetune | model.architecture.model_type=null | model.architecture: no model can be made of it (Unrecognized model identifier:
finetune | model.architecture.tie_word_embeddings=maybe | model.architecture: no model can be made of it (TypeError: Field
unlearn  | adapter=lora ; model.lora.r=null | adapter.lora.r=null: neither it nor model.lora.r says it; give one of them a value
"""
