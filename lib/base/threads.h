/* SPDX-License-Identifier: MIT */
/*
 * threads - OpenMP's threads, tamed
 *
 * By default libgomp's idle threads spin for milliseconds at every join. Tools
 * that share a machine in a pipe, or with anything else, then burn each other's
 * time. Spinning about 50 microseconds is enough for the gap between two kernels.
 */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

/*
 * Spin no longer, unless GOMP_SPINCOUNT or OMP_WAIT_POLICY say how long. libgomp reads them before main(), so a
 * process that was started without them starts itself again, before it has read anything.
 */
void threads_tame(const char **argv);
/* Compute with n threads; 0: with OMP_NUM_THREADS, or as many as there are cores. */
void threads_use(int n);

#endif
