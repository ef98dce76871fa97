/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/base/threads.h"

static struct common parsed;
static char *memory;
static int help, version;

#define THREADS \
	{ "threads", 'j', POPT_ARG_INT, &parsed.threads, 0, \
	    "compute with N threads; results do not depend on it (default: all cores)", "N" }

#define QUIET { "quiet", 'q', POPT_ARG_NONE, &parsed.quiet, 0, "no progress on stderr", NULL }

struct poptOption options_machine[] = {
	{ "backend", 'b', POPT_ARG_STRING, &parsed.backend, 0,
	    "compute with this row of kernels: ref, avx2, avx512, cuda (default: the fastest)", "NAME" },
	{ "memory", 0, POPT_ARG_STRING, &memory, 0, "take no more of its memory, as in 8G (default: all there is)", "SIZE" },
	THREADS,
	QUIET,
	POPT_TABLEEND
};

struct poptOption options_threads_quiet[] = { THREADS, QUIET, POPT_TABLEEND };

struct poptOption options_threads[] = { THREADS, POPT_TABLEEND };

struct poptOption options_help[] = {
	{ "help", 'h', POPT_ARG_NONE, &help, 0, "print this help", NULL },
	{ "version", 'V', POPT_ARG_NONE, &version, 0, "print the version", NULL },
	POPT_TABLEEND
};

static size_t
size_parse(const char *text)
{
	static const char units[] = "KMGT";
	char *end;
	double n = strtod(text, &end);
	const char *unit = *end ? strchr(units, *end) : NULL;

	if (unit)
		end++;
	if (!(n > 0) || *end)
		die_usage("--memory takes a size as in 8G, not '%s'", text);
	for (; unit && unit >= units; unit--)
		n *= 1024;
	return n < (double)SIZE_MAX ? (size_t)n : SIZE_MAX;
}

/* What is opened later must not come to lie where stdin, stdout and stderr are looked for. */
static void
take_closed_descriptors(void)
{
	int fd;

	while ((fd = open("/dev/null", O_PATH)) >= 0 && fd <= STDERR_FILENO)
		;
	if (fd >= 0)
		close(fd);
}

_Noreturn static void
print_end(void)
{
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	exit(0);
}

_Noreturn static void
print_help(poptContext ctx, const char *operands, const char *about)
{
	char *usage = mem_format("[OPTION...] %s\n%s", operands, about);

	poptSetOtherOptionHelp(ctx, usage);
	poptPrintHelp(ctx, stdout, 0);
	free(usage);
	print_end();
}

void
options_parse(int argc, const char **argv, const struct poptOption *table,
    const char *operands, const char *about, int max, struct common *common)
{
	static const char *none[] = { NULL };
	static poptContext ctx;	/* owns the operands */
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	int rc;

	take_closed_descriptors();
	progname = slash ? slash + 1 : argc ? argv[0] : progname;
	ctx = poptGetContext(progname, argc, argv, table, 0);
	while ((rc = poptGetNextOpt(ctx)) > 0)
		;
	if (rc < -1)
		die_usage("%s: '%s'", poptStrerror(rc), poptBadOption(ctx, POPT_BADOPTION_NOALIAS));
	if (help)
		print_help(ctx, operands, about);
	if (version) {
		printf("%s (pipestill) %s\n", progname, PIPESTILL_VERSION);
		print_end();
	}
	if (memory)
		parsed.memory = size_parse(memory);
	*common = parsed;
	common->argc = argc;
	common->argv = argv;
	common->operands = poptGetArgs(ctx);
	if (!common->operands)
		common->operands = none;
	while (common->operands[common->noperands])
		common->noperands++;
	if (max >= 0 && common->noperands > max)
		die_usage("unexpected operand '%s'", common->operands[max]);
	if (common->threads < 0)
		die_usage("--threads must be positive");
	threads_tame(argv);
	threads_use(common->threads);
}

const char *
options_operand(const struct common *common, int i)
{
	return strcmp(common->operands[i], "-") ? common->operands[i] : NULL;
}

const char *
options_input(const struct common *common)
{
	return common->noperands ? options_operand(common, 0) : NULL;
}

int
options_choice(const char *option, const char *word, const char *const *words)
{
	char list[256] = "";
	int i;

	for (i = 0; words[i]; i++)
		if (!strcmp(words[i], word))
			return i;
	for (i = 0; words[i]; i++) {
		strncat(list, i ? ", " : "", sizeof list - strlen(list) - 1);
		strncat(list, words[i], sizeof list - strlen(list) - 1);
	}
	die_usage("--%s knows no '%s', only %s", option, word, list);
}
