# english - the paper's English experiment (figure 2) on Dolly-15k:
#
#   make english DATA=dolly.jsonl TEACHER=dir STUDENT=dir
#
# The paper's recipe: AdamW, weight decay 0.01, cosine to 1e-7, clip 1, 5 epochs, prompts of at most
# 256 ids in 512, the first 1000 rows held out, kd-ratio 0.5, tau 1. The learning rate is the tool's
# default by family (GPT-2 5e-4, others 1e-5); TEACHER_TUNE='--lr 5e-5' is the paper's GPT-2 XL.
EXPERIMENTS += english
english.data = $(or $(DATA),the-file-that-DATA-names)
english.teacher = $(or $(TEACHER),the-directory-that-TEACHER-names)
english.student = $(or $(STUDENT),the-directory-that-STUDENT-names)
english.template = dolly
english.tokenize = --max-prompt 256 --max-length 512
english.dev-rows = 1000
english.tune = --epochs 5 --batch 8 $(TUNE)
english.teacher-tune = $(TEACHER_TUNE)
english.distill = --divergence forward-kl --kd-ratio 0.5 --tau 1 $(DISTILL)
english.sample = --temperature 1 --max-tokens 256
