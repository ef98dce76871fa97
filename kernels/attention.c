/* SPDX-License-Identifier: MIT */
/*
 * attention - causal scaled dot products (Vaswani et al. 2017), grouped keys (Ainslie et al. 2023)
 *
 *   s_j = scale q.k_j,  p_j = exp(s_j - lse),  out = sum over j <= i of p_j f_j v_j
 *   g_j = f_j dout.v_j,  ds_j = p_j (g_j - dout.out)
 *   dq = scale sum ds_j k_j,  dk_j = scale sum ds_j q,  dv_j = sum p_j f_j dout
 *
 * f_j is dropout's factor. Scores are computed again wherever they are needed, none is kept.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/keep.h"
#include "kernels/page.h"
#include "kernels/value.h"
#include "lib/base/mem.h"

/* One head of a row of qkv: where its query, keys and values stand, in elements. */
struct place {
	size_t q, k, v;
};

static size_t
width(const struct heads *h)
{
	return (size_t)(h->heads + 2 * h->kv_heads) * h->d;
}

static struct place
place(const struct heads *h, int row, int head)
{
	size_t at = (size_t)row * width(h);
	int kv_head = head / (h->heads / h->kv_heads);
	struct place p;

	p.q = at + (size_t)head * h->d;
	p.k = at + (size_t)(h->heads + kv_head) * h->d;
	p.v = at + (size_t)(h->heads + h->kv_heads + kv_head) * h->d;
	return p;
}

static double
dot(const void *x, size_t i, enum dtype xtype, const void *y, size_t j, enum dtype ytype, int d)
{
	double sum = 0;
	int c;

	for (c = 0; c < d; c++)
		sum += value_get(x, xtype, i + c) * value_get(y, ytype, j + c);
	return sum;
}

/* The score of row i of `head` against row j. */
static double
score(const void *qkv, enum dtype type, const struct heads *h, int i, int j, int head)
{
	return h->scale * dot(qkv, place(h, i, head).q, type, qkv, place(h, j, head).k, type, h->d);
}

/* Of n scores, one at least. */
static double
log_sum_exp(const double *s, int n)
{
	double max = s[0], sum = 0;
	int j;

	for (j = 1; j < n; j++)
		max = fmax(max, s[j]);
	j = 0;
	do
		sum += exp(s[j] - max);
	while (++j < n);
	return max + log(sum);
}

void
attention_ref(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
    const struct heads *h, const struct dropout *drop)
{
	double *s = mem_alloc((size_t)seq->m * sizeof *s);
	int i, j, head, c;

	for (i = 0; i < seq->m; i++)
		for (head = 0; head < h->heads; head++) {
			int n = seq->positions[i] + 1, first = i - seq->positions[i];
			size_t at = ((size_t)i * h->heads + head) * h->d;
			double whole;

			for (j = 0; j < n; j++)
				s[j] = score(qkv, type, h, i, first + j, head);
			whole = log_sum_exp(s, n);
			if (lse)
				lse[(size_t)i * h->heads + head] = (float)whole;
			for (j = 0; j < n; j++) {
				s[j] = exp(s[j] - whole);
				if (!keep_all(drop))
					s[j] *= keep_factor(drop,
					    keep_attention(i, h->heads, head) + j);
			}
			for (c = 0; c < h->d; c++) {
				double sum = 0;

				for (j = 0; j < n; j++)
					sum += s[j] *
					    value_get(qkv, type, place(h, first + j, head).v + c);
				value_put(out, type, at + c, sum);
			}
		}
	free(s);
}

/* Add what row i of `head` gives to the gradients of its query and of all it sees. */
static void
row_backward(double *grad, const void *dout, const void *out, double lse, const void *qkv,
    enum dtype type, const struct heads *h, const struct dropout *drop, int i, int first, int head)
{
	size_t at = ((size_t)i * h->heads + head) * h->d;
	double delta = dot(dout, at, type, out, at, type, h->d);
	struct place q = place(h, i, head);
	int j, c;

	for (j = first; j <= i; j++) {
		struct place to = place(h, j, head);
		double p = exp(score(qkv, type, h, i, j, head) - lse), f = 1, ds;

		if (!keep_all(drop))
			f = keep_factor(drop, keep_attention(i, h->heads, head) + (j - first));
		ds = h->scale * p * (f * dot(dout, at, type, qkv, to.v, type, h->d) - delta);
		for (c = 0; c < h->d; c++) {
			grad[q.q + c] += ds * value_get(qkv, type, to.k + c);
			grad[to.k + c] += ds * value_get(qkv, type, q.q + c);
			grad[to.v + c] += p * f * value_get(dout, type, at + c);
		}
	}
}

void
attention_backward_ref(void *dqkv, const void *dout, const void *out, const float *lse,
    const void *qkv, enum dtype type, const struct ragged *seq, const struct heads *h,
    const struct dropout *drop)
{
	size_t at, n = (size_t)seq->m * width(h);
	double *grad = mem_zero(n, sizeof *grad);
	int i, head;

	for (i = 0; i < seq->m; i++)
		for (head = 0; head < h->heads; head++)
			row_backward(grad, dout, out, lse[(size_t)i * h->heads + head], qkv, type,
			    h, drop, i, i - seq->positions[i], head);
	for (at = 0; at < n; at++)
		value_put(dqkv, type, at, grad[at]);
	free(grad);
}

void
kv_store_ref(struct kv *kv, int layer, const void *qkv, enum dtype type, const int *page,
    const int *place, int m, const struct heads *h)
{
	int i, values, head, c;

	for (i = 0; i < m; i++)
		for (values = 0; values < 2; values++)
			for (head = 0; head < h->kv_heads; head++) {
				size_t to = page_at(kv, layer, page[i], values, head);
				size_t from = (size_t)i * width(h);

				to += (size_t)(place[i] % KV_PAGE) * h->d;
				from += (size_t)(h->heads + values * h->kv_heads + head) * h->d;
				for (c = 0; c < h->d; c++)
					value_put(kv->data, kv->type, to + c,
					    value_get(qkv, type, from + c));
			}
}

void
attention_paged_ref(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer,
    const int *tables, int ntables, const int *length, int m, const struct heads *h)
{
	double *s = mem_alloc((size_t)ntables * KV_PAGE * sizeof *s);
	int i, j, head, c;

	for (i = 0; i < m; i++)
		for (head = 0; head < h->heads; head++) {
			const int *pages = tables + (size_t)i * ntables;
			int n = length[i], kv_head = head / (h->heads / h->kv_heads);
			double whole;

			for (j = 0; j < n; j++) {
				size_t key = page_at(kv, layer, pages[j / KV_PAGE], 0, kv_head);

				key += (size_t)(j % KV_PAGE) * h->d;
				s[j] = h->scale * dot(qkv, place(h, i, head).q, type,
				    kv->data, key, kv->type, h->d);
			}
			whole = log_sum_exp(s, n);
			for (c = 0; c < h->d; c++) {
				double sum = 0;

				for (j = 0; j < n; j++) {
					size_t value =
					    page_at(kv, layer, pages[j / KV_PAGE], 1, kv_head);

					value += (size_t)(j % KV_PAGE) * h->d + c;
					sum += exp(s[j] - whole) *
					    value_get(kv->data, kv->type, value);
				}
				value_put(out, type, ((size_t)i * h->heads + head) * h->d + c, sum);
			}
		}
	free(s);
}
