/* SPDX-License-Identifier: MIT */
/*
 * sandbox - run a program that a model wrote
 *
 * By bubblewrap, in namespaces of its own: it sees the system's programs and
 * libraries read-only, an empty directory /work (also /tmp) that is memory, no
 * network, no other process, nothing of the home, the environment and the
 * descriptors of who runs it. It has no privileges and cannot gain any; root
 * becomes nobody first. Time, memory, processes, files and output are limited.
 * When its first process ends, or a limit is reached, all of its processes
 * are killed and waited for before the call returns; nothing is left anywhere.
 *
 * Any number of threads may run programs at once.
 */
#ifndef SANDBOX_SANDBOX_H
#define SANDBOX_SANDBOX_H

#include <stddef.h>

#include "lib/base/text.h"

enum { SANDBOX_FILES = 3, SANDBOX_PROCESSES = 64 };

/* A file of /program, which is read-only and may be run. */
struct sandbox_file {
	const char *name;
	const char *data;
	size_t size;
};

struct sandbox_job {
	const char *const *argv;	/* NULL-terminated; searched for in /usr/bin */
	const char *input;		/* stdin */
	size_t input_size;
	struct sandbox_file files[SANDBOX_FILES];	/* up to the first without a name */
	/*
	 * Of run time: it counts from the program's first instruction, and not while it is ready and
	 * the machine gives it no core, unless its processes have used that much time of cores.
	 */
	double seconds;
	size_t memory;			/* bytes, of each process and of all together */
	size_t output;			/* bytes of stdout; more ends the program */
	int errors;			/* keep the end of stderr */
};

enum sandbox_end { SANDBOX_ENDED, SANDBOX_TIME, SANDBOX_MEMORY, SANDBOX_OUTPUT };

struct sandbox_result {
	enum sandbox_end end;		/* by itself, or which limit was reached */
	int status;			/* as a shell says it: 128 + signal where one killed it */
	double seconds;			/* of wall-clock time */
	struct text output;		/* of stdout */
	struct text errors;
};

/* Returns -1 and the reason if no sandbox can be made on this machine. */
int sandbox_usable(char *why);

/* Zero the result before the first use; its memory is used again. Dies when there is no sandbox. */
void sandbox_run(const struct sandbox_job *job, struct sandbox_result *result);
void sandbox_result_free(struct sandbox_result *result);

#endif
