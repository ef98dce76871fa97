/* SPDX-License-Identifier: MIT */
/*
 * options - popt's table, and what all tools share
 *
 * A letter means one thing in every tool: -o output, -b backend, -j threads,
 * -s seed, -n count, -k top-k, -q quiet, -v verbose, -m model, -t template,
 * -h help, -V version. The table is parser, usage and defaults in one.
 */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <popt.h>

#define PIPESTILL_VERSION "0.1.0"

struct common {
	char *backend;		/* NULL: the fastest usable row */
	int threads;		/* 0: as many as there are cores */
	size_t memory;		/* bytes that the row may take; 0: what there is */
	int quiet;		/* no progress on stderr */
	const char **operands;	/* NULL-terminated; never NULL after options_parse() */
	int noperands;
	int argc;		/* the command line as it was given, for stream history */
	const char **argv;
};

extern struct poptOption options_machine[];	/* -b, --memory, -j, -q; for tools that compute */
extern struct poptOption options_threads[];	/* -j; for tools that compute without kernels */
extern struct poptOption options_threads_quiet[];	/* -j, -q; for those that print what they did, too */
extern struct poptOption options_help[];	/* -h, -V; for every tool */

/* Last lines of a tool's table. */
#define OPTIONS_COMMON \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, options_machine, 0, "Machine:", NULL }, OPTIONS_HELP
#define OPTIONS_THREADS \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, options_threads, 0, "Machine:", NULL }, OPTIONS_HELP
#define OPTIONS_THREADS_QUIET \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, options_threads_quiet, 0, "Machine:", NULL }, OPTIONS_HELP
#define OPTIONS_HELP \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, options_help, 0, "Help:", NULL }, POPT_TABLEEND

/*
 * Parse, set progname, answer --help and --version (stdout, exit 0), refuse
 * misuse (exit 2) and apply --threads. `operands` is the synopsis after
 * [OPTION...], `about` one sentence that --help prints below it; at most `max`
 * operands are taken, -1 for any number.
 */
void options_parse(int argc, const char **argv, const struct poptOption *table,
    const char *operands, const char *about, int max, struct common *common);

/* The only operand, or NULL for stdin when there is none or it is "-". */
const char *options_input(const struct common *common);
/* The same of the i-th of several, which must be there. */
const char *options_operand(const struct common *common, int i);

/* The index of `word` in the NULL-terminated `words`; misuse that lists them otherwise. */
int options_choice(const char *option, const char *word, const char *const *words);

#endif
