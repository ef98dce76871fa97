# demo - the English experiment on samples/, from nothing, in minutes on two cores
.PHONY: demo
demo: deps
	@$(MAKE) --no-print-directory -j"$$(nproc)" all
	@$(MAKE) --no-print-directory english
