/* SPDX-License-Identifier: MIT */
/*
 * gptq - tokens on stdin, a quantised model
 *
 * The linear layers of the blocks become codes of a few bits with a scale for every group of inputs,
 * block after block, so that their outputs on the calibration stay what they were (lib/quant/gptq.h).
 */
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/model.h"
#include "lib/model/row.h"
#include "lib/model/safetensors.h"
#include "lib/quant/output.h"
#include "lib/quant/quantise.h"
#include "lib/text/agree.h"
#include "lib/train/data.h"

static char *model, *output, *dtype, *order, *like, *skip;
static int bits = 4, group = 128, asymmetric, positive, at_once, with_head, force;
static int count, held_out = 8, rows = 2048;
static float damp = 0.01f, mse = -1, target = -1;	/* negative: as the algorithm has it */

static const struct poptOption algorithm[] = {
	{ "bits", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &bits, 0, "of a code: 2, 3, 4 or 8", "N" },
	{ "group", 'g', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &group, 0,
	    "inputs that share a scale; -1: all of a layer", "N" },
	{ "asymmetric", 0, POPT_ARG_NONE, &asymmetric, 0, "groups have a zero of their own", NULL },
	{ "order", 0, POPT_ARG_STRING, &order, 0,
	    "of the columns: off, static (default), full, group", "ORDER" },
	{ "damp", 0, POPT_ARG_FLOAT | POPT_ARGFLAG_SHOW_DEFAULT, &damp, 0,
	    "share of the mean of the Hessian's diagonal that is added to it", "X" },
	{ "mse", 0, POPT_ARG_FLOAT, &mse, 0,
	    "search scales for the least sum of |error|^P; 0: no search (default: 2.4)", "P" },
	{ "positive", 0, POPT_ARG_NONE, &positive, 0, "scales have no sign", NULL },
	{ "target", 0, POPT_ARG_FLOAT, &target, 0,
	    "share of the error of the layers before that a layer makes up for (default: 0.5)", "A" },
	{ "at-once", 0, POPT_ARG_NONE, &at_once, 0,
	    "a block's layers are quantised on inputs from before any of them was", NULL },
	{ "like", 0, POPT_ARG_STRING, &like, 0, "gptq: the plain algorithm (--positive --target 0 --mse 0 --order off)", "NAME" },
	{ "lm-head", 0, POPT_ARG_NONE, &with_head, 0, "quantise the head, too", NULL },
	{ "skip", 0, POPT_ARG_STRING, &skip, 0, "leave out layers whose name matches", "GLOB" },
	{ "force", 0, POPT_ARG_NONE, &force, 0, "make also what other programs' kernels refuse", NULL },
	POPT_TABLEEND
};

/* What the run is: options, lists by parameter, and where the results go. */
struct run {
	struct plan plan;
	struct quant_config config;
	struct shelf *shelf;
	struct calibration calibration;
	struct output output;
	int records, held;
	uint64_t digest;	/* of the records */
	int quiet;
};

static void
check_options(void)
{
	if (!model || !output)
		die_usage("--model and --output are needed");
	if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
		die_usage("--bits is 2, 3, 4 or 8");
	if (group != -1 && group < 1)
		die_usage("--group is a number of inputs, or -1");
	if (!(damp >= 0 && damp < 1) || !(target <= 1) || !isfinite(mse))
		die_usage("--damp and --target are from 0 to 1, --mse is a number");
	if (rows < 1 || held_out < 0 || held_out == 1 || count < 0)
		die_usage("--micro-tokens must be positive, --held-out 0 or at least 2");
}

static struct gptq_options
gptq_options(void)
{
	static const char *const orders[] = { "off", "static", "full", "group", NULL }, *const likes[] = { "gptq", NULL };
	struct gptq_options o = { .bits = bits, .group = group, .sym = !asymmetric, .order = ORDER_STATIC,
	    .signs = !positive && !asymmetric, .least_zero = 1, .mse = 2.4f, .target = 0.5f, .damp = damp };

	if (like) {
		options_choice("like", like, likes);
		o.order = ORDER_OFF;
		o.plain = 1;
		o.signs = 0;
		o.mse = o.target = 0;
	}
	if (mse >= 0)
		o.mse = mse;
	if (target >= 0)
		o.target = target;
	if (order)
		o.order = (enum quant_order)options_choice("order", order, orders);
	return o;
}

/* "X" of "X.weight" */
static char *
layer_name(const struct param *p)
{
	char *name = mem_string(p->name);

	name[strlen(name) - strlen(".weight")] = '\0';
	return name;
}

/* What no reader could unpack, and what only some can. */
static void
check_shape(const struct param *p, const char *name)
{
	int size = group == -1 ? p->columns : group;

	if (p->rows % 32 || p->columns % 32)
		die("'%s' has %d outputs and %d inputs: codes are packed by 32 of both; --skip leaves it out", name,
		    p->rows, p->columns);
	if (!force && p->rows % 64)
		die("'%s' has %d outputs, no multiple of 64, which vLLM's kernels refuse; --skip or --force", name,
		    p->rows);
	if (!force && p->columns % size)
		die("'%s' has %d inputs, no multiple of the group of %d, which vLLM's kernels refuse; --group, "
		    "--skip or --force", name, p->columns, size);
}

/* Which parameters are left out; dies before any work where a shape does not fit. */
static void
choose_layers(struct run *r, json_t *dynamic)
{
	const struct model *m = r->shelf->m;
	int i, taken = 0, left = 0;

	r->plan.skipped = mem_zero((size_t)m->nparams, 1);
	for (i = 0; i < m->nparams; i++) {
		const struct param *p = &m->params[i];
		int head = with_head && m->storage[p->storage].matrix == &m->head;
		char *name;

		r->plan.skipped[i] = !head && !plan_takes(m, p);
		if (r->plan.skipped[i])
			continue;
		name = layer_name(p);
		if (skip && !fnmatch(skip, name, 0)) {
			char *rule = mem_format("-:%s$", name);

			json_object_set_new(dynamic, rule, json_object());
			r->plan.skipped[i] = 1;
			left++;
			free(rule);
		} else {
			check_shape(p, name);
			taken++;
		}
		free(name);
	}
	if (skip && !left)
		die_usage("--skip '%s' matches no layer", skip);
	if (!taken)
		die_usage("--skip '%s' leaves nothing to quantise", skip);
}

/* Every record of the stream; each --held-out-th is not calibrated on. */
static void
read_records(struct run *r, const char *path)
{
	struct stream_in *in = stream_open(path, "tokens|rollouts");
	const struct config *c = &r->shelf->m->config;
	struct tokenizer *tokenizer = agree_tokenizer(in, model);
	struct record record;
	struct example e;

	while ((!count || r->records < count) && stream_get(in, &record)) {
		int apart = held_out && r->records % held_out == held_out - 1;

		example_read(&e, &record, in, c->vocab);
		if (c->family == FAMILY_GPT2 && e.n > c->positions)
			die("%s: record '%s' has %d ids, the model only %d positions", stream_name(in), e.id, e.n,
			    c->positions);
		if (e.n)
			calibration_add(&r->calibration, e.ids, e.n, e.spans, e.nspans, apart);
		r->digest = XXH3_64bits_withSeed(e.ids, (size_t)e.n * sizeof *e.ids, r->digest + (uint64_t)apart);
		r->digest = XXH3_64bits_withSeed(e.spans, (size_t)e.nspans * 2 * sizeof *e.spans, r->digest);
		r->records++;
		r->held += apart;
	}
	if (!r->calibration.calibrated)
		die("%s has no records to calibrate on", stream_name(in));
	if (tokenizer)
		tokenizer_close(tokenizer);
	stream_close(in);
}

/* Everything that the codes depend on. */
static char *
run_digest(const struct run *r)
{
	const struct gptq_options *o = &r->plan.options;
	char *weights = model_digest(model);
	char *text = mem_format("%s %s %d %d %d %d %d %d %d %g %g %g %d %d %s %d %016llx %s", PIPESTILL_VERSION,
	    r->shelf->m->be->name, r->shelf->m->type, o->bits, o->group, o->sym, o->order, o->signs, o->plain,
	    (double)o->mse, (double)o->target, (double)o->damp, r->plan.at_once, with_head, skip ? skip : "", rows,
	    (unsigned long long)r->digest, weights);
	char *digest = mem_format("%016llx", (unsigned long long)XXH3_64bits(text, strlen(text)));

	free(weights);
	free(text);
	return digest;
}

static void
print(json_t *line)
{
	if (json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) || putchar('\n') == EOF || fflush(stdout))
		die("cannot write <stdout>:");
	json_decref(line);
}

static void
layer_done(void *user, const struct quantised_layer *l)
{
	struct run *r = user;
	char *name = layer_name(l->param);

	if (l->damp > (double)r->plan.options.damp + 0.001)
		warn("'%s' needed a damping of %.2f: its Hessian is singular", name, l->damp);
	if (l->dead == l->codes->k)
		warn("'%s' never had an input other than 0: all its weights are 0", name);
	print(json_pack("{ss sf sf si sf}", "layer", name, "error", l->error, "damp", l->damp, "dead", l->dead,
	    "seconds", l->seconds));
	output_layer(&r->output, l->param->name, l->codes, &r->config);
	free(name);
}

static void
open_model(struct run *r, const struct common *common)
{
	static const char *const types[] = { "f32", "bf16", NULL };
	const struct backend *be = row_pick(common);
	enum dtype type = !dtype ? DT_NONE : options_choice("dtype", dtype, types) ? DT_BF16 : DT_F32;

	r->shelf = shelf_open(model, be, type);
	if (with_head && r->shelf->m->config.tied)
		die_usage("--lm-head: the head of '%s' is its embedding", model);
}

/* Bytes that embeddings, final norm and head take, and logits of the measurement. */
static size_t
outer_bytes(const struct run *r)
{
	const struct model *m = r->shelf->m;
	size_t elements = 0;
	int i;

	for (i = 0; i < m->nstorage; i++)
		elements += m->storage[i].layer < 0 ? m->storage[i].n : 0;
	return elements * dtype_size(m->type) + (r->held ? 256 * (size_t)m->config.vocab * sizeof(float) : 0);
}

static void
announce(const struct run *r)
{
	const struct calibration *c = &r->calibration;
	size_t block = quantise_bytes(c, &r->plan), outer = outer_bytes(r);
	size_t bytes = calibration_bytes(c) + (block > outer ? block : outer);

	if (held_out && !r->held)
		warn("no record is held out: nothing will be measured");
	if (!r->quiet)
		warn("%d blocks, %zu tokens of %d records to calibrate on, %zu of %d held out; at most %.2f GiB",
		    c->m->config.layers, c->calibrated, r->records - r->held, c->total - c->calibrated, r->held,
		    (double)bytes / (1 << 30));
}

/* The head's copy for y, quantised where that is wanted. */
static struct weight
finish_head(struct run *r)
{
	const struct model *m = r->shelf->m;
	struct weight q = m->head;

	if (with_head) {
		q.data = backend_alloc(m->be, q.elements, dtype_size(q.type), "a second head");
		quantise_head(&r->calibration, &q, &r->plan);
	}
	output_block(&r->output, &r->calibration, m->config.layers);
	return q;
}

static void
print_measure(struct run *r, const struct weight *head)
{
	struct measure s = calibration_measure(&r->calibration, head);

	if (!s.targets)
		warn("the records that are held out have no supervised tokens: nothing is measured");
	else
		print(json_pack("{sI sf sf sf}", "targets", (json_int_t)s.targets, "perplexity_before", exp(s.nll),
		    "perplexity", exp(s.quantised_nll), "kl", s.kl));
}

static void
quantise(struct run *r)
{
	struct calibration *c = &r->calibration;
	struct shelf *s = r->shelf;
	struct weight head;
	int l;

	shelf_take(s, -1);
	calibration_start(c);
	shelf_put_back(s, -1);
	l = output_resume(&r->output, c);
	if (l)
		warn("'%s' goes on at block %d", output, l);
	for (; l < s->m->config.layers; l++) {
		shelf_take(s, l);
		quantise_block(c, l, &r->plan);
		shelf_put_back(s, l);
		output_block(&r->output, c, l);
	}
	shelf_take(s, -1);
	head = finish_head(r);
	if (r->held)
		print_measure(r, &head);
	if (head.data != s->m->head.data)
		s->m->be->free(head.data);
	shelf_put_back(s, -1);
}

static json_t *
describe(const struct run *r, json_t *dynamic)
{
	json_t *description = quant_config_json(&r->config);

	if (json_object_size(dynamic))
		json_object_set(description, "dynamic", dynamic);
	json_object_set_new(description, "true_sequential", json_boolean(!at_once));
	json_object_set_new(description, "static_groups", json_boolean(r->plan.options.order == ORDER_STATIC));
	json_object_set_new(description, "damp_percent", json_real((double)r->plan.options.damp));
	return description;
}

int
main(int argc, const char **argv)
{
	struct common common;
	const struct poptOption options[] = {
		{ "model", 'm', POPT_ARG_STRING, &model, 0, "the model, a Hugging Face directory", "DIR" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "the quantised model", "DIR" },
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, (void *)(uintptr_t)algorithm, 0, "Algorithm:", NULL },
		{ "count", 'n', POPT_ARG_INT, &count, 0, "take so many records (default: all)", "N" },
		{ "held-out", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &held_out, 0,
		    "measure on every N-th record, calibrate on the others; 0: no measure", "N" },
		{ "dtype", 0, POPT_ARG_STRING, &dtype, 0, "compute in f32 or bf16 (default: as the model is stored)",
		    "TYPE" },
		{ "micro-tokens", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &rows, 0,
		    "tokens that go through the model at once", "N" },
		OPTIONS_COMMON
	};
	struct run r = { .records = 0 };
	json_t *dynamic = json_object(), *description;
	char *digest;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR -o DIR [FILE]",
	    "Quantise a model so that it answers as it did on the tokens of a stream.", 1, &common);
	check_options();
	r.quiet = common.quiet;
	r.plan = (struct plan){ .options = gptq_options(), .at_once = at_once, .done = layer_done, .user = &r };
	r.config = (struct quant_config){ .bits = bits, .group = group, .sym = !asymmetric, .version = 1,
	    .scattered = r.plan.options.order == ORDER_FULL, .lm_head = with_head };

	/* model and calibration */
	open_model(&r, &common);
	choose_layers(&r, dynamic);
	calibration_init(&r.calibration, r.shelf->m, rows, r.plan.options.target > 0);
	read_records(&r, options_input(&common));
	digest = run_digest(&r);
	output_open(&r.output, output, digest);
	announce(&r);

	/* block by block */
	quantise(&r);
	description = describe(&r, dynamic);
	output_finish(&r.output, r.shelf, description);

	json_decref(description);
	json_decref(dynamic);
	output_close(&r.output);
	calibration_free(&r.calibration);
	shelf_close(r.shelf);
	free(r.plan.skipped);
	free(digest);
	return 0;
}
