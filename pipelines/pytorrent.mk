# pytorrent - figure 4 of the paper: Python from its description
#
#   make pytorrent DATA=pytorrent.jsonl TEACHER=dir STUDENT=dir
EXPERIMENTS += pytorrent
pytorrent.train = $(or $(DATA),samples/python.train.jsonl)
pytorrent.dev = $(if $(DATA),,samples/python.dev.jsonl)
pytorrent.template = pytorrent
pytorrent.distill = $(english.distill)
pytorrent.sample = $(english.sample)
