/* SPDX-License-Identifier: MIT */
/*
 * gradients - the backward passes of the definitions against finite differences
 *
 * Each operation is written down here once more, in double and from its formula. With random
 * weights on its outputs it is a number L; (L(x + e) - L(x - e)) / 2e is compared with what the
 * backward returns.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/op.h"
#include "kernels/philox.h"
#include "tests/unit/tap.h"

enum { MOST = 4096 };

static double x[MOST], y[MOST], weights[MOST];	/* inputs, outputs, what they weigh in L */
static float xf[MOST], gradient[MOST], weightsf[MOST];
static uint64_t seed = 88172645463325252ull;

static double
uniform(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (double)(seed >> 11) * 0x1p-53;
}

/* n inputs and m weights, all exact in f32. */
static void
draw(int n, int m, double scale)
{
	int i;

	for (i = 0; i < n; i++)
		x[i] = xf[i] = (float)(scale * (2 * uniform() - 1));
	for (i = 0; i < m; i++)
		weights[i] = weightsf[i] = (float)(2 * uniform() - 1);
	memset(gradient, 0, sizeof gradient);
}

/* The worst error of the gradient on x[from .. from + n), relative to its largest element. */
static double
error(void (*f)(void), int from, int n, int m)
{
	double worst = 0, largest = 1e-3;
	int i, j, sign;

	for (i = 0; i < n; i++) {
		double sums[2] = { 0, 0 }, at = x[from + i], slope;

		for (sign = 0; sign < 2; sign++) {
			x[from + i] = at + (sign ? 1e-5 : -1e-5);
			f();
			for (j = 0; j < m; j++)
				sums[sign] += weights[j] * y[j];
		}
		x[from + i] = at;
		slope = (sums[1] - sums[0]) / 2e-5;
		largest = fmax(largest, fabs(slope));
		worst = fmax(worst, fabs(slope - gradient[from + i]));
	}
	return worst / largest;
}

/* x: rows, then w, then b. */
enum { ROWS = 3, C = 13 };
static int centred;

static void
norm(void)
{
	const double *w = x + ROWS * C, *b = w + C;
	int i, j;

	for (i = 0; i < ROWS; i++) {
		double mean = 0, square = 0;

		for (j = 0; j < C && centred; j++)
			mean += x[i * C + j] / C;
		for (j = 0; j < C; j++)
			square += (x[i * C + j] - mean) * (x[i * C + j] - mean) / C;
		for (j = 0; j < C; j++)
			y[i * C + j] = (x[i * C + j] - mean) / sqrt(square + 1e-5) * w[j] +
			    (centred ? b[j] : 0);
	}
}

static void
test_norm(void)
{
	float stats[2 * ROWS], out[ROWS * C], *w = xf + ROWS * C, *b = w + C,
	    *dw = gradient + ROWS * C;

	for (centred = 0; centred < 2; centred++) {
		draw((ROWS + 2) * C, ROWS * C, 2);
		backend_ref.norm(out, xf, DT_F32, w, centred ? b : NULL, 1e-5f, stats, ROWS, C);
		backend_ref.norm_backward(gradient, dw, centred ? dw + C : NULL, weightsf, xf,
		    DT_F32, w, stats, ROWS, C);
		ok(error(norm, 0, (ROWS + 1 + centred) * C, ROWS * C) < 2e-6, "%s",
		    centred ? "LayerNorm" : "RMSNorm");
	}
}

static void
swiglu(void)
{
	int i, j;

	for (i = 0; i < ROWS; i++)
		for (j = 0; j < C; j++)
			y[i * C + j] = x[2 * i * C + j] / (1 + exp(-x[2 * i * C + j])) *
			    x[(2 * i + 1) * C + j];
}

static void
gelu(void)
{
	int i;

	for (i = 0; i < C; i++)
		y[i] = 0.5 * x[i] * (1 + tanh(sqrt(M_2_PI) * (x[i] + 0.044715 * pow(x[i], 3))));
}

static void
test_gates(void)
{
	draw(2 * ROWS * C, ROWS * C, 4);
	backend_ref.swiglu_backward(gradient, weightsf, xf, DT_F32, ROWS, C);
	ok(error(swiglu, 0, 2 * ROWS * C, ROWS * C) < 1e-6, "SwiGLU");
	draw(C, C, 3);
	backend_ref.gelu_backward(gradient, weightsf, xf, DT_F32, C);
	ok(error(gelu, 0, C, C) < 1e-6, "GELU");
}

/* A rotation: its backward is its inverse. */
enum { D = 6, POSITIONS = 9 };
static float table[POSITIONS * D];
static const int places[ROWS] = { 8, 0, 3 };

static void
rope(void)
{
	int i, j;

	for (i = 0; i < ROWS; i++)
		for (j = 0; j < D / 2; j++) {
			double cosine = table[places[i] * D + 2 * j],
			    sine = table[places[i] * D + 2 * j + 1];

			y[i * D + j] = x[i * D + j] * cosine - x[i * D + D / 2 + j] * sine;
			y[i * D + D / 2 + j] = x[i * D + j] * sine + x[i * D + D / 2 + j] * cosine;
		}
}

static void
test_rope(void)
{
	int i;

	for (i = 0; i < POSITIONS * D; i += 2) {
		table[i] = (float)cos(i);
		table[i + 1] = (float)sin(i);
	}
	draw(ROWS * D, ROWS * D, 1);
	memcpy(gradient, weightsf, sizeof gradient);
	backend_ref.rope(gradient, DT_F32, table, places, ROWS, D, 1, D, 1);
	ok(error(rope, 0, ROWS * D, ROWS * D) < 1e-6, "rotation");
}

/* Two sequences, grouped heads, dropout. */
enum { M = 9, FIRST = 4, HEADS = 4, KV = 2, WIDTH = (HEADS + 2 * KV) * D };
static const struct heads heads = { HEADS, KV, D, 0.4f };
static struct dropout drop = { 0, 12345678901234ull, 7 };

static double
keep(int row, int head, int column)
{
	uint64_t i = ((uint64_t)row * HEADS + head) * (1 << 20) + column;
	uint32_t counter[4] = { (uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), drop.stream, 0 },
	    words[4];
	uint32_t key[2] = { (uint32_t)drop.seed, (uint32_t)(drop.seed >> 32) };

	philox(words, counter, key);
	return words[i % 4] * 0x1p-32 >= drop.p ? 1 / (1 - (double)drop.p) : 0;
}

static void
attention(void)
{
	int i, j, head, c;

	for (i = 0; i < M; i++)
		for (head = 0; head < HEADS; head++) {
			int first = i < FIRST ? 0 : FIRST, group = head / (HEADS / KV);
			double *out = y + (i * HEADS + head) * D, s[M], sum = 0;

			for (j = first; j <= i; j++) {
				for (s[j] = 0, c = 0; c < D; c++)
					s[j] += x[i * WIDTH + head * D + c] *
					    x[j * WIDTH + (HEADS + group) * D + c];
				sum += s[j] = exp(heads.scale * s[j]);
			}
			for (c = 0; c < D; c++)
				for (out[c] = 0, j = first; j <= i; j++)
					out[c] += s[j] / sum * keep(i, head, j - first) *
					    x[j * WIDTH + (HEADS + KV + group) * D + c];
		}
}

static void
test_attention(void)
{
	static const int offsets[] = { 0, FIRST, M }, positions[M] = { 0, 1, 2, 3, 0, 1, 2, 3, 4 };
	const struct ragged seq = { M, 2, offsets, positions, offsets };
	float out[M * HEADS * D], lse[M * HEADS];

	for (drop.p = 0; drop.p < 0.5f; drop.p += 0.3f) {
		draw(M * WIDTH, M * HEADS * D, 1.5);
		backend_ref.attention(out, lse, xf, DT_F32, &seq, &heads, &drop);
		backend_ref.attention_backward(gradient, weightsf, out, lse, xf, DT_F32, &seq,
		    &heads, &drop);
		ok(error(attention, 0, M * WIDTH, M * HEADS * D) < 2e-6, "attention, dropout %g",
		    drop.p);
	}
}

/*
 * loss = (1 - k) ce + k tau^2 D over v of the logits; p and q spelled out, no logarithm is saved.
 */
enum { V = 11, K = 4 };
static struct divergence divergence;
static double teacher[V];		/* probabilities at tau */
static int target = 3, bucket;
static const int32_t ids[K] = { 2, 9, 3, 7 };

static double
sum_of(const double *p, const double *q, int n)
{
	double a = divergence.alpha, b = divergence.beta, sum = 0, m;
	int j;

	for (j = 0; j < n; j++)
		switch (divergence.kind) {
		case LOSS_CE: break;
		case LOSS_KD: sum -= p[j] * log(q[j]); break;
		case LOSS_FORWARD_KL: sum += p[j] * log(p[j] / q[j]); break;
		case LOSS_REVERSE_KL: sum += q[j] * log(q[j] / p[j]); break;
		case LOSS_JSD:
			m = b * p[j] + (1 - b) * q[j];
			sum += b * p[j] * log(p[j] / m) + (1 - b) * q[j] * log(q[j] / m);
			break;
		case LOSS_SKEW_KL: sum += p[j] * log(p[j] / (a * p[j] + (1 - a) * q[j])); break;
		case LOSS_SKEW_RKL: sum += q[j] * log(q[j] / (a * q[j] + (1 - a) * p[j])); break;
		case LOSS_ALPHA_BETA:
			sum -= (pow(p[j], a) * pow(q[j], b) - a / (a + b) * pow(p[j], a + b) -
			    b / (a + b) * pow(q[j], a + b)) / (a * b);
		}
	return sum;
}

static void
softmax(double *q, const double *z, double tau)
{
	double sum = 0;
	int j;

	for (j = 0; j < V; j++)
		sum += q[j] = exp(z[j] / tau);
	for (j = 0; j < V; j++)
		q[j] /= sum;
}

static void
loss(void)
{
	double q[V], few[K + 1] = { 0 }, k = divergence.kd_ratio, tau = divergence.tau;
	int j;

	softmax(q, x, 1);
	y[0] = -(1 - k) * log(q[target]);
	softmax(q, x, tau);
	if (!bucket) {
		y[0] += k * tau * tau * sum_of(teacher, q, V);
		return;
	}
	for (few[K] = 1, j = 0; j < K; j++)
		few[K] -= few[j] = q[ids[j]];
	y[0] += k * tau * tau * sum_of(teacher, few, K + 1);
}

static void
test_loss(const char *name, struct divergence d)
{
	float dense[V], log_tail, logprobs[K], ce, div;
	struct teacher_rows t = { .form = bucket ? TEACHER_TOPK_BUCKET : TEACHER_DENSE,
	    .dense = dense, .ld = V,
		.ids = ids, .logprobs = logprobs, .log_tail = &log_tail, .k = K };
	double z[V];
	int j;

	divergence = d;
	draw(V, 1, 2);
	for (j = 0; j < V; j++)
		z[j] = dense[j] = (float)(4 * uniform());
	softmax(teacher, z, d.tau);
	if (bucket) {
		double p[K + 1] = { [K] = 1 };

		for (j = 0; j < K; j++)
			p[K] -= p[j] = teacher[ids[j]];
		for (j = 0; j < K; j++)
			logprobs[j] = (float)log(p[j]);
		log_tail = (float)log(p[K]);
		memcpy(teacher, p, sizeof p);
	}
	memcpy(gradient, xf, sizeof gradient);
	backend_ref.loss(gradient, V, &target, &t, &divergence, weightsf[0], &ce, &div, 1, V);
	loss();
	ok(error(loss, 0, V, 1) < 2e-6 &&
	    fabs((1 - d.kd_ratio) * ce + d.kd_ratio * div - y[0]) < 2e-6 * (1 + fabs(y[0])),
	    "%s%s, tau %g, ratio %g", name, bucket ? " with a bucket" : "", d.tau, d.kd_ratio);
}

int
main(void)
{
	test_norm();
	test_gates();
	test_rope();
	test_attention();
	for (bucket = 0; bucket < 2; bucket++) {
		test_loss("cross-entropy", (struct divergence){ LOSS_CE, 0, 1, 0, 0 });
		test_loss("KD", (struct divergence){ LOSS_KD, 0.4f, 2, 0, 0 });
		test_loss("forward KL", (struct divergence){ LOSS_FORWARD_KL, 1, 1, 0, 0 });
		test_loss("reverse KL", (struct divergence){ LOSS_REVERSE_KL, 0.7f, 1.5f, 0, 0 });
		test_loss("JSD", (struct divergence){ LOSS_JSD, 1, 2, 0, 0.3f });
		test_loss("skew KL", (struct divergence){ LOSS_SKEW_KL, 1, 1, 0.2f, 0 });
		test_loss("skew reverse KL",
		    (struct divergence){ LOSS_SKEW_RKL, 0.5f, 1, 0.2f, 0 });
		test_loss("alpha-beta", (struct divergence){ LOSS_ALPHA_BETA, 1, 2, 0.2f, 0.7f });
		test_loss("alpha-beta", (struct divergence){ LOSS_ALPHA_BETA, 0.5f, 1, -0.5f,
		    1.5f });
	}
	return done();
}
