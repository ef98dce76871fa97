# minillm - the student of an experiment learns on from its own replies, judged by the teacher
#
#   make minillm DATA=dolly.jsonl TEACHER=dir STUDENT=dir
#
# by reverse KL and by MiniLLM, beginning with the fine-tuned one. EXPERIMENT=spanish: in that one's directory.
# ON_POLICY='--steps 500' adds to distill, FOLLOW='--lag 1' to rollout, LM=file is other plain text.
.PHONY: minillm
minillm: $(or $(OUT),runs/$(or $(EXPERIMENT),english))/minillm.txt
	@cat $<
