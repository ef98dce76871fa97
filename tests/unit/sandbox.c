/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/sandbox/sandbox.h"
#include "tests/unit/tap.h"

static struct sandbox_result result;

static struct sandbox_job
job(const char *script)
{
	static const char *argv[4] = { "sh", "-c" };

	argv[2] = script;
	return (struct sandbox_job){ .argv = argv, .seconds = 1, .memory = 1 << 28, .output = 1 << 20, .errors = 1 };
}

static void
run(const char *script)
{
	struct sandbox_job j = job(script);

	sandbox_run(&j, &result);
}

static int
printed(const char *expected)
{
	return result.output.n == strlen(expected) && !memcmp(result.output.s, expected, result.output.n);
}

static void
test_streams(void)
{
	struct sandbox_job j = job("cat; cat /program/one /program/two");
	char *large = mem_alloc(1 << 20);

	j.input = "in\n";
	j.input_size = 3;
	j.files[0] = (struct sandbox_file){ "one", "1\n", 2 };
	j.files[1] = (struct sandbox_file){ "two", "2\n", 2 };
	sandbox_run(&j, &result);
	ok(printed("in\n1\n2\n") && !result.status, "stdin and files are there, stdout comes back");
	run("echo a >&2; exit 3");
	ok(result.status == 3 && result.errors.n == 2 && !result.output.n, "status and stderr come back");
	run("kill -TERM $$");
	ok(result.status == 128 + 15, "a signal is a status");
	memset(large, 'x', 1 << 20);
	j = job("wc -c");
	j.input = large;
	j.input_size = 1 << 20;
	sandbox_run(&j, &result);
	ok(printed("1048576\n"), "a large input arrives");
	j = job("true");
	j.input = large;
	j.input_size = 1 << 20;
	sandbox_run(&j, &result);
	ok(result.end == SANDBOX_ENDED && !result.status, "an input that is not read holds up nobody");
	run("head -c 1048576 /dev/zero");
	ok(result.output.n == 1 << 20 && result.end == SANDBOX_ENDED, "as much output as is allowed");
	run("head -c 1048577 /dev/zero");
	ok(result.end == SANDBOX_OUTPUT, "a byte more is too much");
	free(large);
}

static void
test_surroundings(void)
{
	setenv("SECRET", "visible", 1);
	run("echo $SECRET; tr '\\0' '\\n' </proc/1/environ | grep -c SECRET; exit 0");
	ok(printed("\n0\n"), "nothing of the environment");
	run("ls -A; pwd; id -u; echo /*; ls /proc/self/fd | tr '\\n' ' '");
	ok(printed("/work\n1000\n/bin /dev /etc /lib /lib64 /proc /tmp /usr /work\n0 1 2 3 "),
	    "an empty directory, the system's programs, no descriptor but the three and ls's own");
	run("for d in / /usr/bin /program /dev /usr/lib; do touch $d/x 2>/dev/null && echo $d; done; touch /tmp/x && ls");
	ok(printed("x\n"), "nothing can be written but in /work");
	run("ls");
	ok(printed(""), "and the next program sees nothing of it");
}

static void
test_time(void)
{
	struct sandbox_job j = job("sleep 100");

	j.seconds = 0.3;
	sandbox_run(&j, &result);
	ok(result.end == SANDBOX_TIME && result.seconds >= 0.3 && result.seconds < 2, "a program that sleeps is stopped");
	j.argv = (const char *[]){ "sh", "-c", "while :; do :; done", NULL };
	sandbox_run(&j, &result);
	ok(result.end == SANDBOX_TIME, "and one that works");
	run("sleep 100 & exit 0");
	ok(result.end == SANDBOX_ENDED && result.seconds < 1, "what a program leaves behind keeps nobody waiting");
}

static void
test_memory(void)
{
	struct sandbox_job j = job("");

	j.argv = (const char *[]){ "python3", "-c", "x = bytearray(1 << 29)", NULL };
	sandbox_run(&j, &result);
	ok(result.end == SANDBOX_ENDED && result.status == 1, "memory beyond the limit is refused");
	j.seconds = 5;
	j.argv = (const char *[]){ "python3", "-c",
	    "import os, time\nfor i in range(8): os.fork() or (bytearray(b'x') * (100 << 20), time.sleep(9))\ntime.sleep(9)", NULL };
	sandbox_run(&j, &result);
	ok(result.end == SANDBOX_MEMORY, "of all processes together too");
}

int
main(void)
{
	char why[REASON_MAX];

	progname = "sandbox";
	if (sandbox_usable(why)) {
		skip("sandbox", why);
		return done();
	}
	test_streams();
	test_surroundings();
	test_time();
	test_memory();
	ok(waitpid(-1, NULL, WNOHANG) < 0, "no child is left");
	sandbox_result_free(&result);
	return done();
}
