# cot - figure 5 of the paper: a distilled student that thinks is reinforced by what its programs do
#
#   make cot                                          on samples/thoughts, from nothing, with three seeds
#   make cot DATA=codeforces-cots.jsonl STUDENT=dir   on real tasks, from a student that was distilled
#
# The student of samples/ has read the texts and is distilled for a moment only: it knows the form, and its programs
# are right now and then. A step, one tool a line:
#
#	rollout --follow          prompts   -> rollouts, by the policy as it is
#	reward                    rollouts  -> rewards
#	grpo-step                 rewards   -> the next policy
#
# Held-out tasks are answered before and after; a task is solved when its program passes all tests.
cot = $(or $(and $(filter cot,$(MAKECMDGOALS)),$(OUT)),runs/cot)
COT_SEEDS ?= 1 2 3
COT_RUN = set -e; export PATH="$(abspath $(BIN)):$$PATH";

cot.train = $(or $(DATA),samples/thoughts.train.jsonl)
cot.dev = $(if $(DATA),$(DATA),samples/thoughts.dev.jsonl)
cot.student = $(or $(STUDENT),$(cot)/student/model)
cot.rewards = format=0.2 steps=0.2 code=1:lang=python
cot.sample = -n 8 --slots 64 $(if $(DATA),--temperature 0.9 --max-tokens 256,--max-tokens 96)
cot.loop = --batch $(if $(DATA),8,16) --lag 1
cot.length = $(if $(DATA),--max-prompt 512 --max-length 1024)
cot.tune = $(or $(COT_TUNE),$(if $(DATA),--steps 500,--steps 50 --lr 5e-4 --warmup 8 --betas 0.9$(comma)0.99 --beta 0.001 --scale batch))
comma = ,
# one of a task's tests (two of real data) while it is learned from, all of them when it is held out: judging is most
# of a step
cot.tests = .tests = (.tests // .examples)

.PHONY: cot
cot: $(cot)/table.txt $(cot)/curves.svg
	@cat $(cot)/table.txt

# what thinks well enough to distill from, and what reads well enough to be distilled into
$(cot)/init/tokenizer/tokenizer.json: $(cot.train) templates/cot.txt | all
	@mkdir -p $(cot)/init
	$(COT_RUN) train-bpe -n 1024 -t cot -o $(cot)/init/tokenizer $<
$(cot)/init/%/config.json: samples/%.json $(cot)/init/tokenizer/tokenizer.json
	$(COT_RUN) init-model -q -s 1 --tokenizer $(cot)/init/tokenizer -o $(cot)/init/$* $<
$(cot)/text.tokens.zst: $(cot.train) $(cot)/init/tokenizer/tokenizer.json
	$(COT_RUN) tokenize -m $(cot)/init/tokenizer -t cot --learn-prompt -o $@ $<
$(cot)/train.tokens.zst: $(cot.train) $(cot)/init/tokenizer/tokenizer.json
	$(COT_RUN) tokenize -m $(cot)/init/tokenizer -t cot -o $@ $<
$(cot)/teacher/model/config.json: $(cot)/train.tokens.zst $(cot)/text.tokens.zst $(cot)/init/teacher/config.json
	$(COT_RUN) sft -m $(cot)/init/teacher -o $(cot)/base-teacher --batch 8 --warmup 100 --epochs 2 --lr 2e-3 $(cot)/text.tokens.zst
	$(COT_RUN) sft -m $(cot)/base-teacher/model -o $(cot)/teacher --batch 8 --epochs 2 --lr 1e-3 $<
$(cot)/train.logits.zst: $(cot)/train.tokens.zst $(cot)/teacher/model/config.json
	$(COT_RUN) teacher-logits -m $(cot)/teacher/model -o $@ $<
$(cot)/student/model/config.json: $(cot)/train.logits.zst $(cot)/text.tokens.zst $(cot)/init/thinker/config.json
	$(COT_RUN) sft -m $(cot)/init/thinker -o $(cot)/base-thinker --batch 8 --warmup 100 --epochs 2 --lr 4e-3 $(cot)/text.tokens.zst
	$(COT_RUN) distill -m $(cot)/base-thinker/model --teacher $(cot)/teacher/model -o $(cot)/student --batch 8 --steps 80 --lr 1e-3 $<

$(cot)/train.prompts.zst: $(cot.train) $(cot.student)/config.json | all
	@mkdir -p $(cot)
	$(COT_RUN) jq -c '$(cot.tests)[:$(if $(DATA),2,1)]' $< | tokenize -m $(cot.student) -t cot $(cot.length) $(if $(DATA),--rows 100:) -o $@
$(cot)/dev.prompts.zst: $(cot.dev) $(cot.student)/config.json | all
	@mkdir -p $(cot)
	$(COT_RUN) jq -c '$(cot.tests)' $< | tokenize -m $(cot.student) -t cot $(cot.length) $(if $(DATA),--rows 0:100) -o $@

$(cot)/seed-%/model/config.json: $(cot)/train.prompts.zst $(cot.student)/config.json
	$(COT_RUN) rollout -q --follow $(cot)/seed-$* -s $* $(cot.sample) $(cot.loop) $< | reward $(cot.rewards) | \
		grpo-step -m $(cot.student) -o $(cot)/seed-$* $(cot.tune)

$(cot)/before.jsonl: $(cot.student)/config.json $(cot)/dev.prompts.zst
	$(COT_RUN) rollout -q -m $(cot.student) $(cot.sample) $(cot)/dev.prompts.zst | reward --explain $(cot.rewards) >$@
$(cot)/seed-%.jsonl: $(cot)/seed-%/model/config.json $(cot)/dev.prompts.zst
	$(COT_RUN) rollout -q -m $(cot)/seed-$*/model $(cot.sample) $(cot)/dev.prompts.zst | reward --explain $(cot.rewards) >$@

$(cot)/table.txt: $(cot)/before.jsonl $(COT_SEEDS:%=$(cot)/seed-%.jsonl)
	pipelines/solved $^ >$@
$(cot)/curves.svg: $(COT_SEEDS:%=$(cot)/seed-%/model/config.json)
	pipelines/reward-curves $@ $(COT_SEEDS:%=$(cot)/seed-%)
