/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"

const char *progname = "pipestill";

enum { MESSAGE_MAX = 8192 };	/* two paths and words */

/* One line, whatever foreign names are in it. */
static void
print_line(char *text, size_t size, const char *fmt, va_list ap)
{
	vsnprintf(text, size, fmt, ap);
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == '\x7f')
			*text = '?';
}

static void
say(const char *fmt, va_list ap)
{
	char line[MESSAGE_MAX];
	int error = errno;
	size_t n = strlen(fmt);

	fflush(stdout);
	print_line(line, sizeof line, fmt, ap);
	fprintf(stderr, "%s: %s", progname, line);
	if (n && fmt[n - 1] == ':')
		fprintf(stderr, " %s", strerror(error));
	fputc('\n', stderr);
}

/* LeakSanitizer asks at exit: what a tool holds when it dies is no leak. */
static int dying;

int __lsan_is_turned_off(void);
__attribute__((weak)) int
__lsan_is_turned_off(void)
{
	return dying;
}

void
die(const char *fmt, ...)
{
	va_list ap;

	dying = 1;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	exit(1);
}

void
die_usage(const char *fmt, ...)
{
	va_list ap;

	dying = 1;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	fprintf(stderr, "try '%s --help'\n", progname);
	exit(2);
}

void
warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

int
reason(char *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_line(why, REASON_MAX, fmt, ap);
	va_end(ap);
	return -1;
}
