/* SPDX-License-Identifier: MIT */
/*
 * shared - a loop that threads share where that pays
 *
 * What an if clause of OpenMP leaves of a region is a team of one, which gcc's library makes and ends with a system
 * call: 0.3 us, of which a token of a small model has some twenty. So the loop is compiled twice.
 */
#ifndef KERNELS_SHARED_H
#define KERNELS_SHARED_H

#define SHARED(pays, ...) \
	do { \
		if (pays) { \
			_Pragma("omp parallel for schedule(static)") \
			__VA_ARGS__ \
		} else { \
			__VA_ARGS__ \
		} \
	} while (0)

#endif
