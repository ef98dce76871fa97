/* SPDX-License-Identifier: MIT */
/*
 * export-gguf - a model directory as one file for llama.cpp
 *
 * Weights, tokenizer and chat template. The codes of a model in 4 bits, symmetric
 * and in groups of neighbours, are a Q4_0's: they are written as they are.
 */
#include "lib/base/die.h"
#include "lib/base/options.h"
#include "lib/quant/export.h"

int
main(int argc, const char **argv)
{
	static const char *const types[] = { "stored", "f16", "bf16", "q8_0", "q4_0", NULL };
	static const char *directory, *output, *type = "stored";
	struct common common;
	const struct poptOption options[] = {
		{ "model", 'm', POPT_ARG_STRING, &directory, 0, "the model, a Hugging Face directory", "DIR" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "the file to write", "FILE" },
		{ "type", 't', POPT_ARG_STRING | POPT_ARGFLAG_SHOW_DEFAULT, &type, 0,
		    "matrices in f16, bf16, q8_0 or, as they were quantised, q4_0", "TYPE" },
		OPTIONS_THREADS
	};
	char why[REASON_MAX];
	int rc;

	options_parse(argc, argv, options, "-m DIR -o FILE", "Write a model as llama.cpp reads it, as GGUF.", 0, &common);
	if (!directory || !output)
		die_usage("--model and --output are needed");
	rc = export_gguf(directory, output, (enum export_type)options_choice("type", type, types), why);
	if (rc < 0)
		die("%s", why);
	if (rc)
		warn("'%s' has no tokenizer: neither has '%s'", directory, output);
	return 0;
}
