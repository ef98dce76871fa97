# seqkd - a student learns from what its teacher says (Kim and Rush 2016)
#
#   make seqkd DATA=dolly.jsonl TEACHER=dir STUDENT=dir
#
# The teacher answers every prompt of the training set; the student is fine-tuned on that, as on the data.
.PHONY: seqkd
seqkd: $(or $(OUT),runs/$(or $(EXPERIMENT),english))/seqkd.txt
	@cat $<
