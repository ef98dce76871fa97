# samples - the data that the demo runs on, made anew; what is committed is what this makes

SAMPLES = $(BUILD)/samples/generate $(BUILD)/samples/programs

.PHONY: samples
samples: $(SAMPLES)
	$(Q)for language in english spanish; do \
		$(BUILD)/samples/generate samples/$$language.grammar \
			samples/$$language.train.jsonl samples/$$language.dev.jsonl || exit 1; done
	$(Q)$(BUILD)/samples/programs $(foreach f,python bugs thoughts,samples/$f.train.jsonl samples/$f.dev.jsonl)
	@wc -l samples/*.jsonl

$(BUILD)/samples/%: $(BUILD)/samples/%.o $(BUILD)/samples/output.o $(LIB)
	$(call say,LD,$@)$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)

programs: $(SAMPLES)
