/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/forward.h"
#include "lib/model/session.h"

/* A slot decodes one reply: position `length` is the next that its pages have no keys of. */
struct slot {
	struct request *request;	/* NULL: free */
	struct reply *reply;
	int *table;			/* pages of positions 0 .. */
	int npages, cap;
	int length;
};

/* A model at work on the slots: its keys and values, and the states of a step that go through its head. */
struct engine {
	struct model *m;
	struct kv kv;
	size_t page_bytes;		/* of one page in one layer */
	struct forward *forward;
	size_t width;			/* bytes of a hidden state */
	char *x;			/* [nslots, hidden] */
	char *last;			/* [hidden] of the queue's first prompt, while it has replies to start */
	const char *hidden;		/* of the forward just run */
	float *logits;			/* [nslots, columns] */
	float *raw;			/* the same before the filters, where models are mixed */
};

enum { ENGINES = 2 };

struct session {
	const struct backend *be;
	struct engine engines[ENGINES];	/* the policy, and who is mixed into it */
	int nengines;
	float share;			/* of the second */
	int columns;			/* of the heads that are drawn from */
	int positions;			/* that all have */
	struct sampling sampling;
	int prefill;
	int nslots, active;
	struct slot *slots;
	struct request *queue, **tail;	/* with replies that have no slot yet */
	/* pages, the same ones of every engine */
	int pages;
	int *refs;			/* [pages] */
	int *free, nfree;
	/* a forward */
	int rows;			/* that it is made for */
	struct batch batch;
	int *index;			/* [cap_index] page, place, length, tables of a batch */
	int *d_index;
	int cap_index;
	void *kept;			/* what the row keeps of steps of decode */
	/* the rows of a step that go through the heads */
	int n;
	int *row_slot;			/* [nslots] */
	float *uniform, *d_uniform;	/* [nslots] */
	int *drawn, *d_drawn;		/* [DRAWN, nslots] ids, then the bits of log-probabilities */
};

enum { DRAWN = 4 };			/* id, logp, model_logp, teacher_logp */

/* Pages */

static char *
page_at(const struct engine *e, int layer, int page)
{
	return (char *)e->kv.data + ((size_t)layer * (size_t)e->kv.pages + (size_t)page) * e->page_bytes;
}

static void
engine_grow(struct engine *e, int pages)
{
	const struct backend *be = e->m->be;
	struct kv old = e->kv;
	int l;

	e->kv.pages = pages;
	e->kv.data = backend_alloc(be, (size_t)pages * e->page_bytes, (size_t)old.layers, "generation");
	for (l = 0; old.data && l < old.layers; l++)
		be->copy(page_at(e, l, 0), (char *)old.data + (size_t)l * (size_t)old.pages * e->page_bytes,
		    (size_t)old.pages * e->page_bytes);
	be->free(old.data);
}

static void
pages_grow(struct session *s, int pages)
{
	int i, p;

	for (i = 0; i < s->nengines; i++)
		engine_grow(&s->engines[i], pages);
	s->refs = mem_grow(s->refs, (size_t)pages, sizeof *s->refs);
	s->free = mem_grow(s->free, (size_t)pages, sizeof *s->free);
	for (p = pages - 1; p >= s->pages; p--)
		s->free[s->nfree++] = p;
	s->pages = pages;
}

static int
page_take(struct session *s)
{
	int page;

	if (!s->nfree)
		pages_grow(s, 2 * s->pages);
	page = s->free[--s->nfree];
	s->refs[page] = 1;
	return page;
}

static void
pages_release(struct session *s, const int *pages, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (!--s->refs[pages[i]])
			s->free[s->nfree++] = pages[i];
}

static int
pages_of(int positions)
{
	return (positions + KV_PAGE - 1) / KV_PAGE;
}

static void
slot_push(struct slot *slot, int page)
{
	MEM_PUSH(slot->table, slot->npages, slot->cap, page);
}

/* The slot's next position gets a page that no other reply reads. */
static void
slot_make_writable(struct session *s, struct slot *slot)
{
	int *shared, page, i, l;

	if (slot->length % KV_PAGE == 0) {
		slot_push(slot, page_take(s));
		return;
	}
	shared = &slot->table[slot->npages - 1];
	if (s->refs[*shared] == 1)
		return;
	page = page_take(s);
	for (i = 0; i < s->nengines; i++)
		for (l = 0; l < s->engines[i].kv.layers; l++)
			s->be->copy(page_at(&s->engines[i], l, page), page_at(&s->engines[i], l, *shared),
			    s->engines[i].page_bytes);
	pages_release(s, shared, 1);
	*shared = page;
}

/* Start and end */

/* Another model; its pages are as many as there are. */
static void
engine_add(struct session *s, struct model *m)
{
	struct engine *e = &s->engines[s->nengines++];
	const struct config *c = &m->config;

	e->m = m;
	e->kv = (struct kv){ .type = m->type, .layers = c->layers, .kv_heads = c->kv_heads, .d = c->d };
	e->page_bytes = 2 * (size_t)c->kv_heads * KV_PAGE * (size_t)c->d * dtype_size(m->type);
	e->forward = forward_new(m, s->rows, KEEP_NONE);
	e->width = (size_t)c->hidden * dtype_size(m->type);
	e->x = backend_alloc(s->be, (size_t)s->nslots * e->width, 1, "generation");
	e->last = backend_alloc(s->be, e->width, 1, "generation");
	e->logits = backend_alloc(s->be, (size_t)s->nslots * sizeof *e->logits, (size_t)c->vocab, "generation");
	if (c->positions < s->positions)
		s->positions = c->positions;
}

struct session *
session_new(struct model *m, int slots, int prefill, const struct sampling *sampling)
{
	struct session *s = mem_zero(1, sizeof *s);
	size_t n = (size_t)slots;

	s->be = m->be;
	s->columns = m->config.vocab;
	s->positions = m->config.positions;
	s->sampling = *sampling;
	s->prefill = prefill;
	s->nslots = slots;
	s->slots = mem_zero(n, sizeof *s->slots);
	s->tail = &s->queue;
	s->rows = prefill > slots ? prefill : slots;
	engine_add(s, m);
	pages_grow(s, 4 * slots);
	batch_init(&s->batch, s->be);
	s->row_slot = mem_zero(n, sizeof *s->row_slot);
	s->uniform = mem_zero(n, sizeof *s->uniform);
	s->d_uniform = backend_alloc(s->be, n, sizeof *s->uniform, "generation");
	s->drawn = mem_zero(DRAWN * n, sizeof *s->drawn);
	s->d_drawn = backend_alloc(s->be, DRAWN * n, sizeof *s->drawn, "generation");
	return s;
}

void
session_mix(struct session *s, struct model *teacher, float share, int columns)
{
	size_t raw = mem_mul((size_t)s->nslots * sizeof(float), (size_t)columns);
	int i;

	s->share = share;
	s->columns = columns;
	engine_add(s, teacher);
	engine_grow(&s->engines[1], s->pages);
	for (i = 0; i < s->nengines; i++)
		s->engines[i].raw = backend_alloc(s->be, raw, 1, "generation");
}

static void
engine_free(struct engine *e)
{
	void *const device[] = { e->kv.data, e->x, e->last, e->logits, e->raw };
	size_t i;

	forward_free(e->forward);
	for (i = 0; i < sizeof device / sizeof *device; i++)
		e->m->be->free(device[i]);
}

void
session_free(struct session *s)
{
	void *const device[] = { s->d_index, s->d_uniform, s->d_drawn };
	void *const host[] = { s->slots, s->refs, s->free, s->index, s->row_slot, s->uniform, s->drawn };
	struct request *r;
	int i;

	for (r = s->queue; r; r = r->next)
		free(r->pages);
	for (i = 0; i < s->nslots; i++)
		free(s->slots[i].table);
	for (i = 0; i < s->nengines; i++)
		engine_free(&s->engines[i]);
	batch_free(&s->batch);
	s->be->forget(s->kept);
	for (i = 0; i < (int)(sizeof device / sizeof *device); i++)
		s->be->free(device[i]);
	for (i = 0; i < (int)(sizeof host / sizeof *host); i++)
		free(host[i]);
	free(s);
}

void
reply_free(struct reply *r)
{
	free(r->ids);
	free(r->logp);
	free(r->model_logp);
	free(r->teacher_logp);
}

/* Tokens that a reply may have: the model's positions end it, too. */
static int
reply_limit(const struct session *s, const struct request *r)
{
	int room = s->positions - r->n;

	return room < r->max_tokens ? room : r->max_tokens;
}

void
session_add(struct session *s, struct request *r)
{
	int limit = reply_limit(s, r), i;

	r->unfinished = r->started = 0;
	r->pages = NULL;
	r->next = NULL;
	if (limit <= 0 || !r->nreplies)
		return;
	for (i = 0; i < r->nreplies; i++) {
		struct reply *reply = &r->replies[i];

		reply->ids = mem_zero((size_t)limit, sizeof *reply->ids);
		reply->logp = mem_zero((size_t)limit, sizeof *reply->logp);
		reply->model_logp = mem_zero((size_t)limit, sizeof *reply->model_logp);
		reply->teacher_logp = mem_zero((size_t)limit, sizeof *reply->teacher_logp);
	}
	r->unfinished = r->nreplies;
	for (i = 0; i < s->nengines; i++)
		model_rope(s->engines[i].m, r->n + limit);
	*s->tail = r;
	s->tail = &r->next;
}

int
session_wants(const struct session *s)
{
	const struct request *r;
	int waiting = 0;

	for (r = s->queue; r && s->active + waiting < s->nslots; r = r->next)
		waiting += r->nreplies - r->started;
	return s->active + waiting < s->nslots;
}

/* Prefill */

/* Room for n numbers in the index on both sides. */
static int *
index_reserve(struct session *s, int n)
{
	if (n > s->cap_index) {
		s->be->free(s->d_index);
		s->cap_index = 2 * n;
		s->index = mem_grow(s->index, (size_t)s->cap_index, sizeof *s->index);
		s->d_index = backend_alloc(s->be, (size_t)s->cap_index, sizeof *s->d_index, "generation");
	}
	return s->index;
}

static void
make_room(struct session *s, int rows)
{
	int i;

	s->rows = rows;
	for (i = 0; i < s->nengines; i++) {
		forward_free(s->engines[i].forward);
		s->engines[i].forward = forward_new(s->engines[i].m, rows, KEEP_NONE);
	}
}

struct pass {
	struct session *s;
	struct cache cache;
};

static void
compute(void *user)
{
	struct pass *p = user;
	struct engine *e;
	int i;

	for (i = 0; i < p->s->nengines; i++) {
		e = &p->s->engines[i];
		p->cache.kv = e->kv;
		e->hidden = forward_run(e->forward, &p->s->batch, &p->cache, FOR_SCORES, 0, 0);
	}
}

/* The batch through every engine, which keeps its states. Steps of decode are the same for as many rows and pages. */
static void
run(struct session *s, struct cache *cache, int nindex)
{
	struct batch *b = &s->batch;
	struct pass pass = { s, *cache };

	if (b->m > s->rows)
		make_room(s, b->m);
	batch_upload(b);
	s->be->upload(s->d_index, s->index, (size_t)nindex * sizeof *s->index);
	pass.cache.page = s->d_index;
	pass.cache.place = s->d_index + b->m;
	if (cache->tables)
		s->be->repeat(&s->kept, (uint64_t)cache->ntables << 32 | (uint32_t)b->m, compute, &pass);
	else
		compute(&pass);
}

/* Pages for the prompts in the batch, one sequence for each request from `first` on. */
static void
prompts_place(struct session *s, struct request *first)
{
	const struct batch *b = &s->batch;
	struct request *r = first;
	int *page = index_reserve(s, 2 * b->m), *place = page + b->m;
	int i, j;

	for (i = 0; i < b->nseq; i++, r = r->next) {
		r->pages = mem_alloc((size_t)pages_of(r->n) * sizeof *r->pages);
		for (j = 0; j < pages_of(r->n); j++)
			r->pages[j] = page_take(s);
		for (j = 0; j < r->n; j++) {
			page[b->offsets[i] + j] = r->pages[j / KV_PAGE];
			place[b->offsets[i] + j] = j % KV_PAGE;
		}
	}
}

static struct slot *
slot_free(struct session *s)
{
	struct slot *slot = s->slots;

	while (slot->request)
		slot++;
	return slot;
}

/* Row `row` of the states just computed, or the one that was kept, becomes a row of the step. */
static void
row_add(struct session *s, int row, int slot)
{
	struct engine *e;
	int i;

	for (i = 0; i < s->nengines; i++) {
		e = &s->engines[i];
		s->be->copy(e->x + (size_t)s->n * e->width, row < 0 ? e->last : e->hidden + (size_t)row * e->width,
		    e->width);
	}
	s->row_slot[s->n++] = slot;
}

static void
row_keep(struct session *s, int row)
{
	struct engine *e;
	int i;

	for (i = 0; i < s->nengines && row >= 0; i++) {
		e = &s->engines[i];
		s->be->copy(e->last, e->hidden + (size_t)row * e->width, e->width);
	}
}

/* Give slots to the replies of the queue's first request, whose prompt ends in `row`; -1: the one kept. */
static void
start(struct session *s, int row)
{
	struct request *r = s->queue;
	int i, n = pages_of(r->n);

	for (; s->active < s->nslots && r->started < r->nreplies; s->active++) {
		struct slot *slot = slot_free(s);

		slot->request = r;
		slot->reply = &r->replies[r->started++];
		slot->length = r->n;
		slot->npages = 0;
		for (i = 0; i < n; i++) {
			slot_push(slot, r->pages[i]);
			s->refs[r->pages[i]]++;
		}
		row_add(s, row, (int)(slot - s->slots));
	}
	if (r->started < r->nreplies) {
		row_keep(s, row);
		return;
	}
	pages_release(s, r->pages, n);
	free(r->pages);
	r->pages = NULL;
	s->queue = r->next;
	if (!s->queue)
		s->tail = &s->queue;
}

/* Compute prompts for the free slots, at most `prefill` rows of them, and start their replies. */
static void
prefill(struct session *s)
{
	struct batch *b = &s->batch;
	struct cache cache = { .tables = NULL };
	struct request *r;
	int free_slots = s->nslots - s->active, i;

	batch_clear(b);
	for (r = s->queue; r && free_slots > 0 && (!b->m || b->m + r->n <= s->prefill); r = r->next) {
		batch_add(b, r->prompt, r->n, NULL, 0, 0);
		free_slots -= r->nreplies;
	}
	prompts_place(s, s->queue);
	run(s, &cache, 2 * b->m);
	for (i = 0; i < b->nseq; i++)
		start(s, b->offsets[i + 1] - 1);
}

static void
admit(struct session *s)
{
	if (s->queue && s->queue->started)
		start(s, -1);
	while (s->queue && s->active < s->nslots)
		prefill(s);
}

/* Decode */

static int
is_decoding(const struct slot *slot)
{
	return slot->request && slot->reply->n;
}

/* The last tokens of all replies that have one go through the model; their states go behind those in x. */
static void
decode(struct session *s)
{
	struct batch *b = &s->batch;
	struct cache cache = { .ntables = 0 };
	int i, m, *page, *place, *length, *tables;
	struct slot *slot;

	batch_clear(b);
	for (i = 0; i < s->nslots; i++) {
		slot = &s->slots[i];
		if (!is_decoding(slot))
			continue;
		slot_make_writable(s, slot);
		batch_add_row(b, slot->reply->ids[slot->reply->n - 1], slot->length);
		while (cache.ntables < slot->npages)	/* a width that lasts for some steps */
			cache.ntables = cache.ntables ? 2 * cache.ntables : 1;
		s->row_slot[s->n + b->m - 1] = i;
	}
	if (!(m = b->m))
		return;
	page = index_reserve(s, m * (3 + cache.ntables));
	place = page + m;
	length = place + m;
	tables = length + m;
	memset(tables, 0, (size_t)m * (size_t)cache.ntables * sizeof *tables);
	for (i = 0; i < m; i++) {
		slot = &s->slots[s->row_slot[s->n + i]];
		page[i] = slot->table[slot->npages - 1];
		place[i] = slot->length % KV_PAGE;
		length[i] = ++slot->length;
		memcpy(tables + (size_t)i * (size_t)cache.ntables, slot->table,
		    (size_t)slot->npages * sizeof *tables);
	}
	cache.length = s->d_index + 2 * m;
	cache.tables = s->d_index + 3 * m;
	run(s, &cache, m * (3 + cache.ntables));
	for (i = 0; i < s->nengines; i++) {
		struct engine *e = &s->engines[i];

		s->be->copy(e->x + (size_t)s->n * e->width, e->hidden, (size_t)m * e->width);
	}
	s->n += m;
}

static float
uniform(const struct slot *slot)
{
	const struct reply *reply = slot->reply;
	uint64_t key = slot->request->key;
	const uint32_t counter[4] = { (uint32_t)reply->n, reply->sample, (uint32_t)key, (uint32_t)(key >> 32) };
	const uint32_t seed[2] = { (uint32_t)reply->seed, (uint32_t)(reply->seed >> 32) };
	uint32_t out[4];

	philox(out, counter, seed);
	return philox_uniform(out[0]);
}

static int
is_eos(const struct request *r, int id)
{
	int i;

	for (i = 0; i < r->neos; i++)
		if (r->eos[i] == id)
			return 1;
	return 0;
}

/* Row i of what was drawn. */
static void
append(struct session *s, int i)
{
	struct slot *slot = &s->slots[s->row_slot[i]];
	struct reply *reply = slot->reply;
	const float *logp = (float *)s->drawn + s->n + i;

	reply->ids[reply->n] = s->drawn[i];
	reply->logp[reply->n] = logp[0];
	reply->model_logp[reply->n] = logp[s->n];
	reply->teacher_logp[reply->n++] = logp[2 * s->n];
	reply->stopped = is_eos(slot->request, s->drawn[i]);
	if (!reply->stopped && reply->n < reply_limit(s, slot->request))
		return;
	slot->request->unfinished--;
	slot->request = NULL;
	pages_release(s, slot->table, slot->npages);
	s->active--;
}

/* Probabilities of an engine's next tokens, in its logits; ids drawn by it alone. */
static void
engine_draw(struct session *s, struct engine *e, float *logp)
{
	int n = s->n, v = s->columns;

	s->be->matmul(e->logits, DT_F32, e->x, e->m->type, &e->m->head, NULL, n, v, 0);
	if (e->raw)
		s->be->copy(e->raw, e->logits, (size_t)n * (size_t)v * sizeof *e->raw);
	s->be->sample(s->d_drawn, logp, logp + n, e->logits, (size_t)v, &s->sampling, s->d_uniform, n, v);
}

/* From both models' probabilities: what is drawn, and what each model says of it, unfiltered. */
static void
mix(struct session *s, float *logp)
{
	const struct engine *a = &s->engines[0], *b = &s->engines[1];
	size_t v = (size_t)s->columns;
	int n = s->n;

	s->be->mix(s->d_drawn, logp, a->logits, b->logits, v, s->share, s->d_uniform, n, s->columns);
	s->be->logprob(logp + n, NULL, a->raw, v, s->d_drawn, 1, n, s->columns);
	s->be->logprob(logp + 2 * n, NULL, b->raw, v, s->d_drawn, 1, n, s->columns);
}

static void
draw(struct session *s)
{
	int i, n = s->n;
	float *logp = (float *)(s->d_drawn + n);

	for (i = 0; i < n; i++)
		s->uniform[i] = uniform(&s->slots[s->row_slot[i]]);
	s->be->upload(s->d_uniform, s->uniform, (size_t)n * sizeof *s->uniform);
	for (i = 0; i < s->nengines; i++)
		engine_draw(s, &s->engines[i], logp);
	if (s->nengines > 1)
		mix(s, logp);
	s->be->download(s->drawn, s->d_drawn, DRAWN * (size_t)n * sizeof *s->drawn);
	for (i = 0; i < n; i++) {
		if (!isfinite(((float *)s->drawn)[2 * n + i]))
			die("the model's logits are not finite");
		append(s, i);
	}
}

int
session_step(struct session *s)
{
	s->n = 0;
	admit(s);
	decode(s);
	if (s->n)
		draw(s);
	return s->n;
}
