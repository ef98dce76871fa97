# spanish - figure 3 of the paper: the curated Spanish Dolly, with the Spanish scaffold
#
#   make spanish DATA=dolly-es.jsonl TEACHER=dir STUDENT=dir
EXPERIMENTS += spanish
spanish.train = $(or $(DATA),samples/spanish.train.jsonl)
spanish.dev = $(if $(DATA),,samples/spanish.dev.jsonl)
spanish.template = dolly-es
spanish.distill = $(english.distill)
spanish.sample = $(english.sample)
