# stages - the flow that all experiments share; pipelines/X.mk holds what is particular to X
#
#   X.data        JSON lines; the first X.dev-rows of them are the development set
#   X.template    how a record becomes a prompt and a response: templates/NAME.txt
#   X.tokenize    options of tokenize
#   X.teacher     model directory of the teacher before it is tuned
#   X.student     model directory of the student before it is tuned
#   X.tune        options of every training: epochs, batch ...
#   X.teacher-tune, X.student-tune    options of one model's
#   X.distill     options of distill alone: divergence, kd-ratio, tau
#   X.sample      options of rollout
#
# `make X` runs it in runs/X; stopped, it goes on where it was.

SEEDS ?= 10,20,30,40,50
RUN = PATH="$(abspath $(BIN)):$$$$PATH"

define experiment
.PHONY: $1
$1: runs/$1/table.txt runs/$1/curves.svg
	@cat runs/$1/table.txt

runs/$1/train.tokens.zst: $($1.data) $($1.student)/config.json | all
	@mkdir -p runs/$1
	$(RUN) tokenize -m $($1.student) -t $($1.template) $($1.tokenize) --rows $($1.dev-rows): -o $$@ $$<
runs/$1/dev.tokens.zst: $($1.data) $($1.student)/config.json | all
	@mkdir -p runs/$1
	$(RUN) tokenize -m $($1.student) -t $($1.template) $($1.tokenize) --rows 0:$($1.dev-rows) -o $$@ $$<

runs/$1/teacher/model/config.json: runs/$1/train.tokens.zst runs/$1/dev.tokens.zst $($1.teacher)/config.json
	$(RUN) sft -m $($1.teacher) -o runs/$1/teacher --dev runs/$1/dev.tokens.zst $($1.tune) $($1.teacher-tune) $$<
runs/$1/train.logits.zst: runs/$1/train.tokens.zst runs/$1/teacher/model/config.json
	$(RUN) teacher-logits -m runs/$1/teacher/model -o $$@ $$<
runs/$1/sft/model/config.json: runs/$1/train.tokens.zst runs/$1/dev.tokens.zst $($1.student)/config.json
	$(RUN) sft -m $($1.student) -o runs/$1/sft --dev runs/$1/dev.tokens.zst $($1.tune) $($1.student-tune) $$<
runs/$1/kd/model/config.json: runs/$1/train.logits.zst runs/$1/dev.tokens.zst $($1.student)/config.json
	$(RUN) distill -m $($1.student) --teacher runs/$1/teacher/model -o runs/$1/kd --dev runs/$1/dev.tokens.zst \
		$($1.tune) $($1.student-tune) $($1.distill) $$<

runs/$1/base.scores.json: $($1.student)/config.json runs/$1/dev.tokens.zst
	$(RUN) rollout -m $($1.student) --seeds $(SEEDS) $($1.sample) runs/$1/dev.tokens.zst | $(RUN) rouge >$$@
runs/$1/%.scores.json: runs/$1/%/model/config.json runs/$1/dev.tokens.zst
	$(RUN) rollout -m runs/$1/$$*/model --seeds $(SEEDS) $($1.sample) runs/$1/dev.tokens.zst | $(RUN) rouge >$$@

runs/$1/table.txt: $(foreach m,base sft kd teacher,runs/$1/$m.scores.json)
	pipelines/table runs/$1 >$$@
runs/$1/curves.svg: runs/$1/sft/model/config.json runs/$1/kd/model/config.json runs/$1/teacher/model/config.json
	pipelines/curves runs/$1 $$@
endef

$(foreach x,$(EXPERIMENTS),$(eval $(call experiment,$x)))
