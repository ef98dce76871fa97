# stages - the flow that all experiments share; pipelines/X.mk holds what is particular to X
#
#   X.train       JSON lines to learn from
#   X.dev         JSON lines held out; empty: the first 1000 rows of X.train, as in the paper
#   X.template    how a record becomes a prompt and a response: templates/NAME.txt
#   X.length      options of tokenize
#   X.tune        options of every training: epochs, batch ...
#   X.teacher-tune, X.student-tune    options of one model's
#   X.distill     options of distill alone: divergence, kd-ratio, tau
#   X.sample      options of rollout
#
# minillm.mk and seqkd.mk add to whatever experiment X is; their rules are here, too, with the rest of X's directory.
#
# `make X` learns from samples/ and starts from small base models made for it; with DATA=file TEACHER=dir STUDENT=dir
# it is the paper's experiment on real ones. Both run in runs/X (OUT=dir: there), and stopped, go on
# where they were. A record's way, one tool a line:
#
#	tokenize                  JSON lines -> tokens
#	sft                       tokens     -> teacher, student
#	teacher-logits            tokens     -> logits
#	distill                   logits     -> student
#	rollout                   tokens     -> rollouts
#	rouge                     rollouts   -> scores
# and where a student learns from its own replies, in a loop:
#	rollout --follow          tokens     -> rollouts
#	teacher-logits            rollouts   -> logits
#	distill --on-policy       logits     -> student, which rollout follows

# of sampling; on samples/, where a training is short, also of the order: each seed has students of its own
SEEDS ?= 10,20,30,40,50
seeds = $(subst $(comma), ,$(SEEDS))
sample.first = $(firstword $(seeds))
sample.again = $(filter-out $(sample.first),$(seeds))
paper.first = $(SEEDS)
RUN = PATH="$(abspath $(BIN)):$$$$PATH"

# on samples/: learnt in minutes on two cores; the base models have read the texts, prompts included
sample.length = --max-prompt 128 --max-length 256
sample.base = --batch 8 --warmup 100 --epochs 3
sample.base-teacher = --lr 2e-3
sample.base-student = --lr 6e-3
sample.tune = --batch 8 --epochs 3 --dev-every 150
sample.teacher-tune = --lr 1e-3
sample.student-tune = --lr 5e-3
sample.follow = --batch 32 --max-tokens 64
sample.on-policy = --lr 2e-3 --warmup 10 --steps 300
sample.minillm = --reward-scale 0.5 --reward-clip 100 --lm-batch 16
# on real data: the paper's recipe; the learning rate is the tool's default by family
paper.length = --max-prompt 256 --max-length 512
paper.tune = --epochs 5 --batch 8
# MiniLLM's published recipe
paper.follow = --batch 256 --max-tokens 256
paper.on-policy = --lr 5e-6 --schedule constant --warmup 100 --betas 0.9,0.95 --decay 1e-6 --steps 5000
paper.minillm = --reward-scale 0.5 --reward-clip 100 --inner-epochs 4 --lm-kd-ratio 0.5

# $1 experiment, $2 its directory, $3 sample or paper, $4 teacher, $5 student;
# $6 suffix of the students' directories, $7 option
define students
$2/sft$6/best/config.json: $2/train.tokens.zst $2/dev.tokens.zst $5/config.json
	$(RUN) sft -m $5 -o $2/sft$6 $7 --dev $2/dev.tokens.zst $($3.tune) $($3.student-tune) $(STUDENT_TUNE) $$<
$2/kd$6/best/config.json: $2/train.logits.zst $2/dev.tokens.zst $5/config.json
	$(RUN) distill -m $5 --teacher $2/teacher/best -o $2/kd$6 $7 --dev $2/dev.tokens.zst \
		$($3.tune) $($3.student-tune) $(STUDENT_TUNE) $($1.distill) $(DISTILL) $$<

endef

define experiment
.PHONY: $1
$1: $2/table.txt $2/curves.svg
	@cat $2/table.txt

$2/init/tokenizer/tokenizer.json: $($1.train) | all
	@mkdir -p $2/init
	$(RUN) train-bpe -n 1024 -t $($1.template) -o $2/init/tokenizer $$<
$2/init/%/config.json: samples/%.json $2/init/tokenizer/tokenizer.json
	$(RUN) init-model -q -s 1 --tokenizer $2/init/tokenizer -o $2/init/$$* $$<
$2/text.tokens.zst: $($1.train) $2/init/tokenizer/tokenizer.json
	$(RUN) tokenize -m $2/init/tokenizer -t $($1.template) $($3.length) --learn-prompt -o $$@ $$<
$2/base-%/model/config.json: $2/text.tokens.zst $2/init/%/config.json
	$(RUN) sft -m $2/init/$$* -o $2/base-$$* $(sample.base) $$(sample.base-$$*) $$<

$2/train.tokens.zst: $($1.train) $5/config.json | all
	@mkdir -p $2
	$(RUN) tokenize -m $5 -t $($1.template) $($3.length) $(if $($1.dev),,--rows 1000:) -o $$@ $$<
$2/dev.tokens.zst: $(or $($1.dev),$($1.train)) $5/config.json | all
	@mkdir -p $2
	$(RUN) tokenize -m $5 -t $($1.template) $($3.length) $(if $($1.dev),,--rows 0:1000) -o $$@ $$<

$2/teacher/best/config.json: $2/train.tokens.zst $2/dev.tokens.zst $4/config.json
	$(RUN) sft -m $4 -o $2/teacher --dev $2/dev.tokens.zst $($3.tune) $($3.teacher-tune) $(TEACHER_TUNE) $$<
$2/train.logits.zst: $2/train.tokens.zst $2/teacher/best/config.json
	$(RUN) teacher-logits -m $2/teacher/best -o $$@ $$<
$(call students,$1,$2,$3,$4,$5)
$(foreach s,$($3.again),$(call students,$1,$2,$3,$4,$5,-$s,--seed $s))
$2/taught.rollouts.zst: $2/train.tokens.zst $2/teacher/best/config.json
	$(RUN) rollout -m $2/teacher/best -s 1 $($1.sample) -o $$@ $$<
$2/seqkd/best/config.json: $2/taught.rollouts.zst $2/dev.tokens.zst $5/config.json
	$(RUN) sft -m $5 -o $2/seqkd --dev $2/dev.tokens.zst $($3.tune) $($3.student-tune) $(STUDENT_TUNE) $$<

$2/on-policy/model/config.json $2/minillm/model/config.json: $2/train.tokens.zst $2/sft/best/config.json \
		$2/teacher/best/config.json
$2/on-policy/model/config.json:
	$(RUN) rollout -q --follow $2/on-policy $($3.follow) $(FOLLOW) $2/train.tokens.zst | \
	$(RUN) teacher-logits -q -m $2/teacher/best | \
	$(RUN) distill --on-policy -m $2/sft/best --teacher $2/teacher/best -o $2/on-policy \
		--divergence reverse-kl $($3.on-policy) $(ON_POLICY)
$2/minillm/model/config.json:
	$(RUN) rollout -q --follow $2/minillm --mix-teacher $2/teacher/best $($3.follow) $(FOLLOW) $2/train.tokens.zst | \
	$(RUN) teacher-logits -q -m $2/teacher/best | \
	$(RUN) distill --on-policy -m $2/sft/best --teacher $2/teacher/best -o $2/minillm \
		--divergence minillm --lm $(or $(LM),$2/train.tokens.zst) $($3.minillm) $($3.on-policy) $(ON_POLICY)

$2/on-policy.scores.json $2/minillm.scores.json: $2/%.scores.json: $2/%/model/config.json $2/dev.tokens.zst
	$(RUN) rollout -m $2/$$*/model -s $(SEEDS) $($1.sample) $2/dev.tokens.zst | $(RUN) rouge >$$@
$2/base.scores.json: $5/config.json $2/dev.tokens.zst
	$(RUN) rollout -m $5 -s $(SEEDS) $($1.sample) $2/dev.tokens.zst | $(RUN) rouge >$$@
$2/sft.scores.json $2/kd.scores.json: $2/%.scores.json: $2/%/best/config.json \
		$(foreach s,$($3.again),$2/%-$s/best/config.json) $2/dev.tokens.zst
	{ $(RUN) rollout -m $2/$$*/best -s $($3.first) $($1.sample) $2/dev.tokens.zst \
	$(foreach s,$($3.again),&& $(RUN) rollout -m $2/$$*-$s/best -s $s $($1.sample) $2/dev.tokens.zst); } | $(RUN) rouge >$$@
$2/%.scores.json: $2/%/best/config.json $2/dev.tokens.zst
	$(RUN) rollout -m $2/$$*/best -s $(SEEDS) $($1.sample) $2/dev.tokens.zst | $(RUN) rouge >$$@

$2/minillm.txt: $(foreach m,sft kd on-policy minillm teacher,$2/$m.scores.json)
	pipelines/table $2 sft kd on-policy minillm teacher >$$@
$2/seqkd.txt: $(foreach m,sft seqkd kd teacher,$2/$m.scores.json)
	pipelines/table $2 sft seqkd kd teacher >$$@
$2/table.txt: $(foreach m,base sft kd teacher,$2/$m.scores.json)
	pipelines/table $2 >$$@
$2/curves.svg: $(foreach m,sft kd teacher,$2/$m/best/config.json)
	pipelines/curves $2 $$@
endef

# with OUT, the directory of the one that is made; cot has other rules for the same files
made = $(if $(OUT),$(if $(filter cot,$(MAKECMDGOALS)),,$\
	$(or $(filter $(EXPERIMENTS),$(MAKECMDGOALS)),$(EXPERIMENT),english)),$(EXPERIMENTS))
$(foreach x,$(made),$(eval $(call experiment,$x,$(or $(OUT),runs/$x),$(if $(DATA),paper,sample),$\
	$(or $(TEACHER),$(or $(OUT),runs/$x)/base-teacher/model),$(or $(STUDENT),$(or $(OUT),runs/$x)/base-student/model))))
