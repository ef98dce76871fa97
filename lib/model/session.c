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

struct session {
	struct model *m;
	const struct backend *be;
	struct sampling sampling;
	int prefill;
	int nslots, active;
	struct slot *slots;
	struct request *queue, **tail;	/* with replies that have no slot yet */
	/* pages */
	struct kv kv;
	size_t page_bytes;		/* of one page in one layer */
	int *refs;			/* [pages] */
	int *free, nfree;
	/* a forward */
	struct forward *forward;
	int rows;			/* that it is made for */
	struct batch batch;
	int *index;			/* [cap_index] page, place, length, tables of a batch */
	int *d_index;
	int cap_index;
	/* the rows of a step that go through the head */
	size_t width;			/* bytes of a hidden state */
	char *x;			/* [nslots, hidden] */
	char *last;			/* [hidden] of the queue's first prompt, while it has replies to start */
	int n;				/* rows in x */
	int *row_slot;			/* [nslots] */
	float *logits;			/* [nslots, vocab] */
	float *uniform, *d_uniform;	/* [nslots] */
	int *drawn, *d_drawn;		/* [3, nslots] ids, then the bits of logp and model_logp */
};

static void *
allocate(const struct backend *be, size_t bytes)
{
	void *p = be->alloc(bytes);

	if (!p)
		die("out of memory for generation, asking for %zu bytes", bytes);
	return p;
}

/* Pages */

static char *
page_at(const struct session *s, int layer, int page)
{
	return (char *)s->kv.data + ((size_t)layer * (size_t)s->kv.pages + (size_t)page) * s->page_bytes;
}

static void
pages_grow(struct session *s, int pages)
{
	struct kv old = s->kv;
	int l, p;

	s->kv.pages = pages;
	s->kv.data = allocate(s->be, mem_mul((size_t)pages * s->page_bytes, (size_t)old.layers));
	for (l = 0; old.data && l < old.layers; l++)
		s->be->copy(page_at(s, l, 0), (char *)old.data + (size_t)l * (size_t)old.pages * s->page_bytes,
		    (size_t)old.pages * s->page_bytes);
	s->be->free(old.data);
	s->refs = mem_grow(s->refs, (size_t)pages, sizeof *s->refs);
	s->free = mem_grow(s->free, (size_t)pages, sizeof *s->free);
	for (p = pages - 1; p >= old.pages; p--)
		s->free[s->nfree++] = p;
}

static int
page_take(struct session *s)
{
	int page;

	if (!s->nfree)
		pages_grow(s, 2 * s->kv.pages);
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
	int *shared, page, l;

	if (slot->length % KV_PAGE == 0) {
		slot_push(slot, page_take(s));
		return;
	}
	shared = &slot->table[slot->npages - 1];
	if (s->refs[*shared] == 1)
		return;
	page = page_take(s);
	for (l = 0; l < s->kv.layers; l++)
		s->be->copy(page_at(s, l, page), page_at(s, l, *shared), s->page_bytes);
	pages_release(s, shared, 1);
	*shared = page;
}

/* Start and end */

struct session *
session_new(struct model *m, int slots, int prefill, const struct sampling *sampling)
{
	struct session *s = mem_zero(1, sizeof *s);
	const struct config *c = &m->config;
	size_t n = (size_t)slots;

	s->m = m;
	s->be = m->be;
	s->sampling = *sampling;
	s->prefill = prefill;
	s->nslots = slots;
	s->slots = mem_zero(n, sizeof *s->slots);
	s->tail = &s->queue;
	s->kv = (struct kv){ .type = m->type, .layers = c->layers, .kv_heads = c->kv_heads, .d = c->d };
	s->page_bytes = 2 * (size_t)c->kv_heads * KV_PAGE * (size_t)c->d * dtype_size(m->type);
	pages_grow(s, 4 * slots);
	s->rows = prefill > slots ? prefill : slots;
	s->forward = forward_new(m, s->rows, KEEP_NONE);
	batch_init(&s->batch, s->be);
	s->width = (size_t)c->hidden * dtype_size(m->type);
	s->x = allocate(s->be, n * s->width);
	s->last = allocate(s->be, s->width);
	s->row_slot = mem_zero(n, sizeof *s->row_slot);
	s->logits = allocate(s->be, mem_mul(n * sizeof *s->logits, (size_t)c->vocab));
	s->uniform = mem_zero(n, sizeof *s->uniform);
	s->d_uniform = allocate(s->be, n * sizeof *s->uniform);
	s->drawn = mem_zero(3 * n, sizeof *s->drawn);
	s->d_drawn = allocate(s->be, 3 * n * sizeof *s->drawn);
	return s;
}

void
session_free(struct session *s)
{
	void *const device[] = { s->kv.data, s->d_index, s->x, s->last, s->logits, s->d_uniform, s->d_drawn };
	void *const host[] = { s->slots, s->refs, s->free, s->index, s->row_slot, s->uniform, s->drawn };
	struct request *r;
	size_t i;

	for (r = s->queue; r; r = r->next)
		free(r->pages);
	for (i = 0; i < (size_t)s->nslots; i++)
		free(s->slots[i].table);
	forward_free(s->forward);
	batch_free(&s->batch);
	for (i = 0; i < sizeof device / sizeof *device; i++)
		s->be->free(device[i]);
	for (i = 0; i < sizeof host / sizeof *host; i++)
		free(host[i]);
	free(s);
}

void
reply_free(struct reply *r)
{
	free(r->ids);
	free(r->logp);
	free(r->model_logp);
}

/* Tokens that a reply may have: the model's positions end it, too. */
static int
reply_limit(const struct session *s, const struct request *r)
{
	int room = s->m->config.positions - r->n;

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
	}
	r->unfinished = r->nreplies;
	model_rope(s->m, r->n + limit);
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
		s->d_index = allocate(s->be, (size_t)s->cap_index * sizeof *s->d_index);
	}
	return s->index;
}

static const char *
run(struct session *s, struct cache *cache, int nindex)
{
	struct batch *b = &s->batch;

	if (b->m > s->rows) {
		forward_free(s->forward);
		s->rows = b->m;
		s->forward = forward_new(s->m, s->rows, KEEP_NONE);
	}
	batch_upload(b);
	s->be->upload(s->d_index, s->index, (size_t)nindex * sizeof *s->index);
	cache->kv = s->kv;
	cache->page = s->d_index;
	cache->place = s->d_index + b->m;
	return forward_run(s->forward, b, cache, 0, 0, 0);
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

/* Give slots to the replies of the queue's first request, whose prompt ends in `hidden`. */
static void
start(struct session *s, const char *hidden)
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
		s->be->copy(s->x + (size_t)s->n * s->width, hidden, s->width);
		s->row_slot[s->n++] = (int)(slot - s->slots);
	}
	if (r->started < r->nreplies) {
		if (hidden != s->last)
			s->be->copy(s->last, hidden, s->width);
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
	const char *hidden;
	int free_slots = s->nslots - s->active, i;

	batch_clear(b);
	for (r = s->queue; r && free_slots > 0 && (!b->m || b->m + r->n <= s->prefill); r = r->next) {
		batch_add(b, r->prompt, r->n, NULL, 0, 0);
		free_slots -= r->nreplies;
	}
	prompts_place(s, s->queue);
	hidden = run(s, &cache, 2 * b->m);
	for (i = 0; i < b->nseq; i++)
		start(s, hidden + (size_t)(b->offsets[i + 1] - 1) * s->width);
}

static void
admit(struct session *s)
{
	if (s->queue && s->queue->started)
		start(s, s->last);
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
		cache.ntables = slot->npages > cache.ntables ? slot->npages : cache.ntables;
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
	s->be->copy(s->x + (size_t)s->n * s->width, run(s, &cache, m * (3 + cache.ntables)),
	    (size_t)m * s->width);
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

static void
append(struct session *s, struct slot *slot, int id, float logp, float model_logp)
{
	struct reply *reply = slot->reply;

	reply->ids[reply->n] = id;
	reply->logp[reply->n] = logp;
	reply->model_logp[reply->n++] = model_logp;
	reply->stopped = is_eos(slot->request, id);
	if (!reply->stopped && reply->n < reply_limit(s, slot->request))
		return;
	slot->request->unfinished--;
	slot->request = NULL;
	pages_release(s, slot->table, slot->npages);
	s->active--;
}

static void
draw(struct session *s)
{
	int i, n = s->n, vocab = s->m->config.vocab;
	float *logp = (float *)(s->drawn + n), *model_logp = logp + n;
	float *d_logp = (float *)(s->d_drawn + n);

	for (i = 0; i < n; i++)
		s->uniform[i] = uniform(&s->slots[s->row_slot[i]]);
	s->be->upload(s->d_uniform, s->uniform, (size_t)n * sizeof *s->uniform);
	s->be->matmul(s->logits, DT_F32, s->x, s->m->type, &s->m->head, NULL, n, vocab, 0);
	s->be->sample(s->d_drawn, d_logp, d_logp + n, s->logits, (size_t)vocab, &s->sampling, s->d_uniform, n, vocab);
	s->be->download(s->drawn, s->d_drawn, 3 * (size_t)n * sizeof *s->drawn);
	for (i = 0; i < n; i++) {
		if (!isfinite(model_logp[i]))
			die("the model's logits are not finite");
		append(s, &s->slots[s->row_slot[i]], s->drawn[i], logp[i], model_logp[i]);
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
