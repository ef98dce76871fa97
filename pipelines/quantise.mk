# quantise - a model before and after: bytes, memory, speed, perplexity, Rouge-L
#
#   make quantise                                   the demo's distilled student
#   make quantise MODEL=dir TOKENS=train.tokens.zst DEV=dev.tokens.zst    any other
#
# BITS and GROUPS are tried with each other; GPTQ='--like gptq' adds to gptq, SAMPLE to rollout.
BITS ?= 8 4 3
GROUPS ?= 64 32
quantise.from := $(or $(OUT),runs/$(or $(EXPERIMENT),english))
quantise.model := $(or $(MODEL),$(quantise.from)/kd/best)
quantise.tokens := $(or $(TOKENS),$(quantise.from)/train.tokens.zst)
quantise.dev := $(or $(DEV),$(quantise.from)/dev.tokens.zst)
quantise.to := $(if $(MODEL),$(or $(OUT),runs),$(quantise.from))/quantised
quantise.all := whole $(foreach b,$(BITS),$(foreach g,$(GROUPS),W$bg$g))

.PHONY: quantise
quantise: $(quantise.to)/table.txt $(quantise.to)/figure.svg
	@cat $<

$(quantise.to)/whole/config.json: $(quantise.model)/config.json
	@mkdir -p $(quantise.to)
	ln -sfn $(abspath $(quantise.model)) $(quantise.to)/whole
$(quantise.to)/W%/config.json: $(quantise.model)/config.json $(quantise.tokens)
	@mkdir -p $(quantise.to)
	PATH="$(abspath $(BIN)):$$PATH" gptq -q -m $(quantise.model) -o $(@D) --bits $(word 1,$(subst g, ,$*)) \
		-g $(word 2,$(subst g, ,$*)) -n 1024 $(GPTQ) $(quantise.tokens) >$(@D).log
$(quantise.to)/%.json: $(quantise.to)/%/config.json $(quantise.dev)
	PATH="$(abspath $(BIN)):$$PATH" pipelines/weigh $(<D) $(quantise.dev) $(SEEDS) $(SAMPLE) >$@.part
	mv $@.part $@
$(quantise.to)/table.txt: $(quantise.all:%=$(quantise.to)/%.json)
	pipelines/weights $(quantise.to) $(quantise.all) >$@.part
	mv $@.part $@
$(quantise.to)/figure.svg: $(quantise.to)/table.txt
	pipelines/weights --figure $(quantise.to) $(quantise.all) >$@.part
	mv $@.part $@
