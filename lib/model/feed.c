/* SPDX-License-Identifier: MIT */
#include "lib/base/die.h"
#include "lib/model/feed.h"
#include "lib/model/row.h"
#include "lib/text/agree.h"

static const char *directory, *dtype, *head, *shard;
static int rows = 2048;

struct poptOption options_feed[] = {
	{ "model", 'm', POPT_ARG_STRING, &directory, 0, "the model, a Hugging Face directory", "DIR" },
	{ "dtype", 0, POPT_ARG_STRING, &dtype, 0, "compute in f32 or bf16 (default: as the model is stored)", "TYPE" },
	{ "head", 0, POPT_ARG_STRING, &head, 0, "hold the head as stored, or in 8 bits: int8 (default: stored)", "TYPE" },
	{ "micro-tokens", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &rows, 0,
	    "tokens that go through the model at once; results do not depend on it", "N" },
	{ "shard", 0, POPT_ARG_STRING, &shard, 0, "read every N-th record only, from the I-th", "I/N" },
	POPT_TABLEEND
};

int
feed_named(void)
{
	return directory != NULL;
}

void
feed_model(const char *named, enum dtype type)
{
	if (head)
		die_usage("--head does not go with '%s', a model in training", named);
	directory = named;
	if (!dtype)
		dtype = dtype_name(type);
}

void
feed_open(struct feed *f, const char *want, int keep, const struct common *common)
{
	static const char *const types[] = { "f32", "bf16", NULL }, *const heads[] = { "stored", "int8", NULL };
	const struct backend *be;
	enum dtype type = !dtype ? DT_NONE : options_choice("dtype", dtype, types) ? DT_BF16 : DT_F32;

	if (!directory)
		die_usage("--model is needed");
	if (rows < 1)
		die_usage("--micro-tokens must be positive");
	be = row_pick(common);
	*f = (struct feed){ .directory = directory, .rows = rows, .int8 = head && options_choice("head", head, heads) };
	f->in = stream_open(options_input(common), want);
	stream_shard(f->in, shard);
	if (f->int8 && !be->quant_put)
		die("--head int8: the backend %s has no such weights", be->name);
	f->m = model_load(directory, be, type);
	if (f->int8)
		model_round_head(f->m, keep);
	f->tokenizer = agree_tokenizer(f->in, directory);
}

void
feed_close(struct feed *f)
{
	if (f->tokenizer)
		tokenizer_close(f->tokenizer);
	model_free(f->m);
	stream_close(f->in);
}
