# english - figure 2 of the paper: Dolly-15k
#
#   make english DATA=dolly.jsonl TEACHER=dir STUDENT=dir
#
# The paper's learning rates are the defaults but for GPT-2 XL: TEACHER_TUNE='--lr 5e-5'.
EXPERIMENTS += english
english.train = $(or $(DATA),samples/english.train.jsonl)
english.dev = $(if $(DATA),,samples/english.dev.jsonl)
english.template = dolly
english.distill = --divergence forward-kl --kd-ratio 0.5 --tau 1
english.sample = --temperature 1 --max-tokens 256
