/* SPDX-License-Identifier: MIT */
/* ptx - what kernels/ptx.cuh does, by words; copies come when they are waited for, not before */
#ifndef EMULATE_PTX_CUH
#define EMULATE_PTX_CUH

#include "kernels/device.cuh"

void fetch_16(void *to, const void *from, bool there);
void fetch_commit(void);
void fetch_arrive(int pending);

template<int pending>
static inline void
fetch_wait(void)
{
	fetch_arrive(pending);
}

static inline unsigned
two(const bf16 *low, const bf16 *high)
{
	return low->bits | (unsigned)high->bits << 16;
}

/* n matrices of 8 x 8, whose rows are where the lanes say, eight after eight. */
static inline void
load_matrices(unsigned *r, int n, const bf16 *p, int transposed)
{
	const struct lanes rows = *warp_exchange((uint64_t)p);
	int lane = make_lane();

	for (int i = 0; i < n; i++) {
		const bf16 *row[8];

		for (int j = 0; j < 8; j++)
			row[j] = (const bf16 *)rows.word[8 * i + j];
		r[i] = transposed ? two(row[lane % 4 * 2] + lane / 4, row[lane % 4 * 2 + 1] + lane / 4) :
		    two(row[lane / 4] + lane % 4 * 2, row[lane / 4] + lane % 4 * 2 + 1);
	}
}

static inline void load_4(unsigned r[4], const bf16 *p) { load_matrices(r, 4, p, 0); }
static inline void load_4_transposed(unsigned r[4], const bf16 *p) { load_matrices(r, 4, p, 1); }
static inline void load_2(unsigned r[2], const bf16 *p) { load_matrices(r, 2, p, 0); }

static inline float
part(const uint64_t *word, int k)
{
	return bf16_to_f32((uint16_t)(*word >> 16 * (k % 2 + 2 * (k / 8))));
}

static inline void
multiply(float c[4], const unsigned a[4], const unsigned b[2])
{
	struct lanes upper, lower, right;
	int g = make_lane() / 4, t = make_lane() % 4;

	/* rows g and g + 8 of A: its low and high columns */
	upper = *warp_exchange(a[0] | (uint64_t)a[2] << 32);
	lower = *warp_exchange(a[1] | (uint64_t)a[3] << 32);
	right = *warp_exchange(b[0] | (uint64_t)b[1] << 32);
	for (int i = 0; i < 4; i++)
		for (int k = 0; k < 16; k++)
			c[i] += part((i < 2 ? upper : lower).word + g * 4 + k % 8 / 2, k) *
			    part(right.word + (2 * t + i % 2) * 4 + k % 8 / 2, k);
}

#endif
