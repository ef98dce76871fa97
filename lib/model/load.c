/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/layout.h"
#include "lib/model/safetensors.h"
#include "lib/quant/weight.h"

enum { ALL = -2 };	/* layers; -1 is what lies outside of the blocks */

struct source {
	struct model *m;
	const struct safetensors *st;
	struct quant_config quant;
	const struct safetensor **of;	/* [nparams]; NULL where the parameter lies quantised */
	int layer;	/* that is filled, or ALL */
	int bad;	/* lowest parameter that has a NaN or an infinity; INT_MAX: none */
};

static int
ends_in(const char *name, const char *ending)
{
	size_t n = strlen(name), k = strlen(ending);

	return n >= k && !strcmp(name + n - k, ending);
}

/* Masks and angles that old checkpoints carry along. */
static int
is_buffer(const char *name)
{
	static const char *const endings[] = {
		".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq",
	};
	size_t i;

	for (i = 0; i < sizeof endings / sizeof *endings; i++)
		if (ends_in(name, endings[i]))
			return 1;
	return 0;
}

static char *
shape_text(char text[256], const uint64_t *shape, int rank)
{
	int i, n = 0;

	n += snprintf(text, 256, "[");
	for (i = 0; i < rank; i++)
		n += snprintf(text + n, 256 - (size_t)n, "%s%" PRIu64, i ? ", " : "", shape[i]);
	snprintf(text + n, 256 - (size_t)n, "]");
	return text;
}

static int
check_param(const struct param *p, const struct safetensor *t, char *why)
{
	uint64_t rows = (uint64_t)p->rows, columns = (uint64_t)p->columns;
	uint64_t shape[2] = { p->transposed ? columns : rows, p->transposed ? rows : columns };
	int rank = p->columns ? 2 : 1;
	char has[256], needs[256];

	if (!t)
		return reason(why, "weight '%s' is missing", p->name);
	if (t->type != DT_F32 && t->type != DT_BF16 && t->type != DT_F16)
		return reason(why, "weight '%s' is of type %s, not F32, BF16 or F16", t->name,
		    safetensors_type(t->type));
	if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape))
		return reason(why, "weight '%s' has shape %s, but config.json asks for %s", t->name,
		    shape_text(has, t->shape, t->rank), shape_text(needs, shape, rank));
	return 0;
}

static int
is_zero(const struct safetensor *t)
{
	const char *bytes = t->data;
	size_t i;

	for (i = 0; i < t->bytes && !bytes[i]; i++)
		;
	return i == t->bytes;
}

/* A tied head that is stored once more must be the embedding. */
static int
check_copy(const struct model *m, const struct safetensors *st, const struct safetensor *head,
    char *why)
{
	const struct safetensor *embed = safetensors_find_weight(st, m->params[0].name);

	if (head->bytes == embed->bytes && head->type == embed->type &&
	    !memcmp(head->data, embed->data, head->bytes))
		return 0;
	return reason(why, "'%s' is not the embedding, though tied to it", head->name);
}

/* "model.layers.0.mlp.up_proj", of the parameter's weight; to be freed. */
static char *
layer_name(const struct param *p)
{
	char *name = mem_string(p->name), *dot = strrchr(name, '.');

	if (dot)
		*dot = 0;
	return name;
}

/* A matrix that multiplies, and whose place in the file is taken by codes. */
static int
is_quantised(const struct source *from, const struct param *p)
{
	const struct model *m = from->m;
	const struct weight *w = m->storage[p->storage].matrix;
	char *name;
	int lies;

	if (!from->quant.bits || !w || w == &m->embed || w == &m->position)
		return 0;
	name = layer_name(p);
	lies = quantised_lies(from->st, name);
	free(name);
	return lies;
}

static int
by_address(const void *a, const void *b)
{
	const struct safetensor *x = *(const struct safetensor *const *)a;
	const struct safetensor *y = *(const struct safetensor *const *)b;

	return x < y ? -1 : x > y;
}

/* All that is used: a quantised layer has several tensors, the bias of one that has none is zero. */
static const struct safetensor **
list_used(const struct source *from, size_t *count)
{
	static const char *const parts[] = { "qweight", "qzeros", "scales", "g_idx", "bias" };
	const struct safetensor **used = NULL, *t;
	int n = 0, cap = 0, i, j;

	for (i = 0; i < from->m->nparams; i++) {
		char *name;

		if (from->of[i]) {
			MEM_PUSH(used, n, cap, from->of[i]);
			continue;
		}
		name = layer_name(&from->m->params[i]);
		for (j = 0; j < (int)(sizeof parts / sizeof *parts); j++) {
			char *full = mem_format("%s.%s", name, parts[j]);

			if ((t = safetensors_find_weight(from->st, full)) && (j < 4 || is_zero(t)))
				MEM_PUSH(used, n, cap, t);
			free(full);
		}
		free(name);
	}
	if (n)
		qsort(used, (size_t)n, sizeof *used, by_address);
	*count = (size_t)n;
	return used;
}

/* Nothing may lie in the file that the model would not use. */
static int
check_unused(const struct source *from, char *why)
{
	const struct model *m = from->m;
	const struct safetensors *st = from->st;
	size_t n;
	const struct safetensor **used = list_used(from, &n);
	int i, rc = 0;

	for (i = 0; i < st->count && !rc; i++) {
		const struct safetensor *t = &st->tensors[i];

		if (bsearch(&t, used, n, sizeof *used, by_address) || is_buffer(t->name))
			continue;
		if (m->config.tied && !strcmp(t->name, "lm_head.weight"))
			rc = check_copy(m, st, t, why);
		else
			rc = reason(why, "weight '%s' would not be used", t->name);
	}
	free(used);
	return rc;
}

static int
check(struct source *from, char *why)
{
	const struct model *m = from->m;
	int i;

	for (i = 0; i < m->nparams; i++) {
		if (is_quantised(from, &m->params[i]))
			continue;
		from->of[i] = safetensors_find_weight(from->st, m->params[i].name);
		if (check_param(&m->params[i], from->of[i], why))
			return -1;
	}
	return 0;
}

/* All bits of an exponent set: infinity or NaN. */
static int
is_finite(const void *x, enum dtype type, size_t n)
{
	const uint16_t *h = x;
	const uint32_t *u = x;
	uint32_t wide = 0x7f800000, bad = 0;
	uint16_t narrow = type == DT_BF16 ? 0x7f80 : 0x7c00, bad16 = 0;
	size_t i;

	if (type == DT_F32) {
		#pragma omp simd reduction(|:bad)
		for (i = 0; i < n; i++)
			bad |= (u[i] & wide) == wide;
	} else {
		#pragma omp simd reduction(|:bad16)
		for (i = 0; i < n; i++)
			bad16 |= (uint16_t)((h[i] & narrow) == narrow);
	}
	return !bad && !bad16;
}

/* Rows row .. row+rows-1 of a parameter, dense and aligned: where they are, or in scratch. */
static const void *
stage(const struct param *p, const struct safetensor *t, int row, int rows, void **scratch)
{
	size_t size = dtype_size(t->type), k = p->columns ? (size_t)p->columns : 1, i;
	size_t n = (size_t)rows * size, pitch = (size_t)p->rows * size;
	const char *data = t->data;

	if (!p->transposed) {
		data += (size_t)row * k * size;
		return (uintptr_t)data % size ? *scratch = mem_copy(data, n * k) : data;
	}
	data += (size_t)row * size;
	*scratch = mem_alloc(n * k);
	for (i = 0; i < k; i++)
		memcpy((char *)*scratch + i * n, data + i * pitch, n);
	return *scratch;
}

/* The slice's part of one parameter; row is the storage's. */
static void
put(struct source *from, const struct storage *s, int param, int row, int rows)
{
	const struct param *p = &from->m->params[param];
	const struct safetensor *t = from->of[param];
	const struct backend *be = from->m->be;
	size_t n = (size_t)rows * (size_t)(p->columns ? p->columns : 1);
	void *scratch = NULL;
	const void *src = stage(p, t, row - p->row, rows, &scratch);

	if (!is_finite(src, t->type, n)) {
		#pragma omp critical
		if (param < from->bad)
			from->bad = param;
	}
	if (s->matrix) {
		be->weight_put(s->matrix, row, rows, src, t->type, p->transposed);
	} else {
		float *wide = mem_alloc(n * sizeof *wide);

		dtype_convert(wide, DT_F32, src, t->type, n);
		be->upload(*s->vector + row, wide, n * sizeof *wide);
		free(wide);
	}
	free(scratch);
}

static void
fill(void *context, const struct storage *s, int row, int rows)
{
	struct source *from = context;
	int i;

	if (from->layer != ALL && from->layer != s->layer)
		return;
	for (i = s->param; i < s->param + s->nparams; i++) {
		const struct param *p = &from->m->params[i];
		int first = p->row > row ? p->row : row;
		int last = p->row + p->rows < row + rows ? p->row + p->rows : row + rows;

		if (first < last && from->of[i])
			put(from, s, i, first, last - first);
	}
}

/* The layer as a part of a whole matrix. */
static void
put_whole(const struct source *from, struct weight *w, const struct quantised *l, int first)
{
	enum { SLICE = 256 };
	int row;

	for (row = 0; row < l->n; row += SLICE) {
		int rows = l->n - row < SLICE ? l->n - row : SLICE;
		float *x = mem_alloc((size_t)rows * (size_t)l->k * sizeof *x);

		quantised_weights(x, l, row, rows);
		from->m->be->weight_put(w, first + row, rows, x, DT_F32, 0);
		free(x);
	}
}

/* The quantised layers of a matrix, as they are where all its rows are of such. */
static int
load_codes(const struct source *from, struct storage *s, char *why)
{
	struct quantised *layers = mem_zero((size_t)s->nparams, sizeof *layers);
	int i, n = 0, rc = 0;

	for (i = 0; i < s->nparams && !rc; i++) {
		const struct param *p = &from->m->params[s->param + i];
		char *name = layer_name(p);

		if (!from->of[s->param + i]) {
			rc = quantised_read(&layers[i], from->st, name, &from->quant, p->rows, p->columns, why);
			n++;
		}
		free(name);
	}
	if (!rc && n && (n < s->nparams || weight_hold(s->matrix, from->m->be, layers, n))) {
		layout_allocate_matrix(from->m, s);
		for (i = 0; i < s->nparams; i++)
			if (layers[i].q)
				put_whole(from, s->matrix, &layers[i], from->m->params[s->param + i].row);
	}
	s->n = s->matrix->elements;
	for (i = 0; i < s->nparams; i++)
		quantised_free(&layers[i]);
	free(layers);
	return rc;
}

static int
load_quantised(const struct source *from, char *why)
{
	struct model *m = from->m;
	int i, bad = INT_MAX;		/* lowest storage that cannot be read: the one to speak of */

	#pragma omp parallel for schedule(dynamic)
	for (i = 0; i < m->nstorage; i++) {
		char inner[REASON_MAX];

		if (!m->storage[i].matrix || !load_codes(from, &m->storage[i], inner))
			continue;
		#pragma omp critical
		if (i < bad) {
			bad = i;
			reason(why, "%s", inner);
		}
	}
	return bad == INT_MAX ? 0 : -1;
}

/* The memory and the weights of from->layer. */
static int
load_whole(struct source *from, char *why)
{
	if (from->layer == ALL)
		layout_allocate(from->m);
	else
		layout_allocate_layer(from->m, from->layer);
	layout_each_slice(from->m, fill, from);
	from->m->be->sync();
	if (from->bad == INT_MAX)
		return 0;
	return reason(why, "weight '%s' is not finite: it has a NaN or an infinity", from->of[from->bad]->name);
}

static int
load(struct model *m, const struct safetensors *st, const struct quant_config *quant, int whole, char *why)
{
	struct source from = { .m = m, .st = st, .quant = *quant, .layer = ALL, .bad = INT_MAX };
	int rc;

	from.of = mem_zero((size_t)m->nparams, sizeof *from.of);
	rc = check(&from, why);
	if (!rc && whole)
		rc = check_unused(&from, why);
	if (!rc && quant->bits)
		rc = load_quantised(&from, why);
	if (!rc)
		rc = load_whole(&from, why);
	free(from.of);
	return rc;
}

/* bf16 where all whole matrices are, whatever config.json says. */
static enum dtype
file_type(const struct safetensors *st)
{
	int i;

	for (i = 0; i < st->count; i++)
		if (st->tensors[i].rank == 2 && st->tensors[i].type != DT_BF16 &&
		    st->tensors[i].type != DT_I32 && !ends_in(st->tensors[i].name, ".scales"))
			return DT_F32;
	return DT_BF16;
}

static struct model *
open_part(const char *directory, const struct backend *be, enum dtype type, int whole, char *why)
{
	struct model *m = mem_zero(1, sizeof *m);
	char *path = file_join(directory, "config.json"), inner[REASON_MAX];
	struct safetensors *st = NULL;
	struct quant_config quant;
	int rc = -1;

	m->be = be;
	m->directory = mem_string(directory);
	if (!config_read(&m->config, path, why) && !quant_config_read(&quant, directory, why) &&
	    (st = safetensors_open_model(directory, why))) {
		m->config.quantised = quant.bits > 0;
		m->type = type ? type : file_type(st);
		(whole ? layout_build : layout_build_head)(m);
		if ((rc = load(m, st, &quant, whole, inner)))
			reason(why, "'%s': %s", directory, inner);
		safetensors_close(st);
	}
	free(path);
	if (rc) {
		model_free(m);
		return NULL;
	}
	return m;
}

struct model *
model_open(const char *directory, const struct backend *be, enum dtype type, char *why)
{
	return open_part(directory, be, type, 1, why);
}

void
model_reload(struct model *m, const char *directory)
{
	const struct quant_config whole = { .bits = 0 };
	char why[REASON_MAX];
	struct safetensors *st = safetensors_open_model(directory, why);

	if (!st)
		die("%s", why);
	if (load(m, st, &whole, 1, why))
		die("'%s': %s", directory, why);
	safetensors_close(st);
}

static struct model *
or_die(struct model *m, const char *why)
{
	if (!m)
		die("%s", why);
	return m;
}

struct model *
model_load(const char *directory, const struct backend *be, enum dtype type)
{
	char why[REASON_MAX];

	return or_die(open_part(directory, be, type, 1, why), why);
}

struct model *
model_load_head(const char *directory, const struct backend *be, enum dtype type)
{
	char why[REASON_MAX];

	return or_die(open_part(directory, be, type, 0, why), why);
}

struct shelf *
shelf_open(const char *directory, const struct backend *be, enum dtype type)
{
	struct shelf *s = mem_zero(1, sizeof *s);
	struct model *m = s->m = mem_zero(1, sizeof *m);
	char *path = file_join(directory, "config.json"), why[REASON_MAX];
	struct source from = { .m = m };

	m->be = be;
	m->directory = mem_string(directory);
	if (config_read(&m->config, path, why) || quant_config_read(&from.quant, directory, why) ||
	    !(s->st = safetensors_open_model(directory, why)))
		die("%s", why);
	if (from.quant.bits)
		die("'%s' is quantised already", directory);
	m->type = type ? type : file_type(s->st);
	layout_build(m);
	from.st = s->st;
	from.of = s->of = mem_zero((size_t)m->nparams, sizeof *s->of);
	if (check(&from, why) || check_unused(&from, why))
		die("'%s': %s", directory, why);
	free(path);
	return s;
}

void
shelf_take(struct shelf *s, int layer)
{
	struct source from = { .m = s->m, .st = s->st, .of = s->of, .layer = layer, .bad = INT_MAX };
	char why[REASON_MAX];

	if (load_whole(&from, why))
		die("'%s': %s", s->m->directory, why);
}

void
shelf_put_back(struct shelf *s, int layer)
{
	int i;

	layout_release_layer(s->m, layer);
	for (i = 0; i < s->st->nmaps; i++)	/* what was read of the file is not needed again */
		madvise((void *)(uintptr_t)s->st->maps[i].data, s->st->maps[i].size, MADV_DONTNEED);
}

void
shelf_close(struct shelf *s)
{
	model_free(s->m);
	safetensors_close(s->st);
	free(s->of);
	free(s);
}
