/* SPDX-License-Identifier: MIT */
/*
 * init-model - a config.json becomes a model with random weights, or a model a shallower one
 *
 * Random: matrices and embeddings are normal(0, initializer_range), GPT-2's
 * projections onto the residual stream 1/sqrt(2 layers) of that; biases are 0,
 * norms 1. A copy is the model without some of its layers (DistilBERT, Sanh et al. 2019).
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/model/model.h"
#include "lib/model/row.h"
#include "lib/text/tokenizer.h"

static const char *const type_words[] = { "f32", "bf16", "f16", NULL };
static const enum dtype types[] = { DT_F32, DT_BF16, DT_F16 };

static const char *output, *from, *layers, *dtype, *tokenizer;
static int every, pad;
static long long seed;

/* "0,2,4": ascending numbers below n, into list[n]; their number. */
static int
parse_layers(int *list, int n)
{
	const char *s = layers;
	char *end;
	int count = 0;

	do {
		long layer = strtol(s, &end, 10);

		if (end == s || (*end && *end != ','))
			die_usage("--layers '%s' is no list of numbers", layers);
		if (layer < 0 || layer >= n)
			die("there is no layer %ld in '%s', which has %d", layer, from, n);
		if (count && layer <= list[count - 1])
			die_usage("--layers '%s' does not ascend", layers);
		list[count++] = (int)layer;
		s = end + 1;
	} while (*end);
	return count;
}

static struct model *
shallower(const struct backend *be)
{
	struct model *m = model_load(from, be, DT_NONE);
	int n = m->config.layers, *list = mem_alloc((size_t)n * sizeof *list), count = 0, i;

	if (m->config.quantised)
		die("'%s' is quantised: take layers of the model it was made from", from);
	if (layers)
		count = parse_layers(list, n);
	else
		for (i = 0; i < n; i += every)
			list[count++] = i;
	model_keep_layers(m, list, count);
	free(list);
	return m;
}

/* vocab_size from the tokenizer where config.json leaves it open, and a multiple of --pad. */
static void
set_vocab(json_t *json)
{
	char why[REASON_MAX];
	json_int_t vocab = json_integer_value(json_object_get(json, "vocab_size"));
	struct tokenizer *t = NULL;

	if (tokenizer && !(t = tokenizer_open(tokenizer, why)))
		die("%s", why);
	if (t && vocab && vocab < tokenizer_vocab(t))
		die("vocab_size %lld is smaller than the tokenizer '%s' of %d ids",
		    (long long)vocab, tokenizer, tokenizer_vocab(t));
	if (t && (!vocab || pad))
		vocab = tokenizer_vocab(t);
	if (pad)
		vocab = (vocab + pad - 1) / pad * pad;
	if (vocab)
		json_object_set_new(json, "vocab_size", json_integer(vocab));
	if (t && tokenizer_eos(t) >= 0 && !json_is_integer(json_object_get(json, "eos_token_id")))
		json_object_set_new(json, "eos_token_id", json_integer(tokenizer_eos(t)));
	if (t)
		tokenizer_close(t);
}

static struct model *
random_weights(const char *path, const struct backend *be, enum dtype type)
{
	char why[REASON_MAX];
	json_t *json = json_read(path, why);
	struct config config;
	struct model *m;

	if (!json)
		die("%s", why);
	if (json_is_object(json))
		set_vocab(json);
	if (config_parse(&config, json, why))
		die("'%s': %s", path, why);
	json_decref(json);
	if (config.quantised)
		die("'%s' has a quantization_config: random weights are not quantised", path);
	m = model_new(&config, be, type == DT_F16 ? DT_F32 : type);
	model_randomise(m, (uint64_t)seed);
	return m;
}

int
main(int argc, const char **argv)
{
	const struct poptOption options[] = {
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "the directory to make", "DIR" },
		{ "seed", 's', POPT_ARG_LONGLONG | POPT_ARGFLAG_SHOW_DEFAULT, &seed, 0,
		    "seed of the random weights", "N" },
		{ "tokenizer", 0, POPT_ARG_STRING, &tokenizer, 0,
		    "copy this tokenizer; it gives vocab_size and eos_token_id where CONFIG has none", "DIR" },
		{ "pad", 0, POPT_ARG_INT, &pad, 0, "round vocab_size up to a multiple of N", "N" },
		{ "from", 0, POPT_ARG_STRING, &from, 0,
		    "copy this model instead, without some of its layers", "DIR" },
		{ "layers", 0, POPT_ARG_STRING, &layers, 0,
		    "the layers to keep, counted from 0: 0,2,4", "LIST" },
		{ "keep-every", 0, POPT_ARG_INT, &every, 0, "keep the layers 0, N, 2N ...", "N" },
		{ "dtype", 0, POPT_ARG_STRING, &dtype, 0,
		    "write f32, bf16 or f16 (default: as CONFIG or the copied model)", "TYPE" },
		OPTIONS_COMMON
	};
	struct common common;
	const struct backend *be;
	enum dtype type = DT_NONE;
	struct model *m;

	/* arguments */
	options_parse(argc, argv, options, "-o DIR [CONFIG]",
	    "Make a model with random weights, or a shallower copy of one.", 1, &common);
	if (!output)
		die_usage("no --output");
	if (!from == !common.noperands)
		die_usage("either a CONFIG or --from is needed");
	if (from && !layers == !every)
		die_usage("--from needs either --layers or --keep-every");
	if (!from && (layers || every))
		die_usage("--layers and --keep-every need --from");
	if (from && (tokenizer || pad))
		die_usage("--tokenizer and --pad go with a CONFIG, not with --from");
	if (every < 0 || pad < 0)
		die_usage("--keep-every and --pad must be positive");
	if (dtype)
		type = types[options_choice("dtype", dtype, type_words)];

	/* prepare */
	file_check_directory(output);
	be = row_pick(&common);
	m = from ? shallower(be) : random_weights(common.operands[0], be, type);

	/* finish */
	if (!type)
		type = from ? m->type : m->config.dtype;
	model_save(m, output, from ? from : tokenizer, type);
	model_free(m);
	return 0;
}
