# bugnet - figure 4 of the paper: the correction of programs
#
#   make bugnet DATA=bugnet.jsonl TEACHER=dir STUDENT=dir
EXPERIMENTS += bugnet
bugnet.train = $(or $(DATA),samples/bugs.train.jsonl)
bugnet.dev = $(if $(DATA),,samples/bugs.dev.jsonl)
bugnet.template = bugnet
bugnet.distill = $(english.distill)
bugnet.sample = $(english.sample)
