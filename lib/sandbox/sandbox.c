/* SPDX-License-Identifier: MIT */
/*
 * The program's life: bubblewrap says the process id of the sandbox's first
 * process on the report pipe, then a shell inside, which has set the last
 * limit, writes START there and becomes the program. Killing the sandbox's
 * first process makes the kernel kill all others; bubblewrap, our child, ends
 * after that.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/sandbox/filter.h"
#include "lib/sandbox/sandbox.h"
#include "lib/sandbox/tree.h"

#define START "+"
/* dash calls the limit of processes -p, others -u */
#define BEGIN "{ ulimit -u $0 2>/dev/null || ulimit -p $0; } && printf " START " >&3 && exec \"$@\" 3>&-"

enum {
	NOBODY = 65534,
	REPORT = 3,			/* the descriptor inside */
	HIGH = 10,			/* ours begin there, out of its way */
	ARGUMENTS = 128,
	WORK_BYTES = 64 << 20, WORK_FILES = 20000,
	OPEN_FILES = 64,
	STACK = 8 << 20,
	ERRORS_KEPT = 2000,
	TICK = 50,			/* milliseconds between two looks at a running program */
	PATIENCE = 4,			/* run time may take so many times longer by the clock */
	START_SECONDS = 60
};

static const char *const environment[] = {
	"PATH=/usr/bin", "HOME=/work", "TMPDIR=/work", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "OMP_NUM_THREADS=1",
	"OPENBLAS_NUM_THREADS=1", "PYTHONUTF8=1", "PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1",
	"PYTHONNOUSERSITE=1", NULL
};

static const char *const layout[] = {
	"bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
	"--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
	"--uid", "1000", "--gid", "1000", "--hostname", "sandbox",
	"--ro-bind", "/usr/bin", "/usr/bin", "--ro-bind", "/usr/lib", "/usr/lib",
	"--ro-bind-try", "/usr/lib64", "/usr/lib64", "--ro-bind-try", "/usr/libexec", "/usr/libexec",
	"--ro-bind-try", "/usr/include", "/usr/include", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives",
	"--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache",
	"--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
	"--proc", "/proc", "--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/zero", "/dev/zero",
	"--dev-bind", "/dev/random", "/dev/random", "--dev-bind", "/dev/urandom", "/dev/urandom",
	"--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/proc/self/fd/0", "/dev/stdin",
	"--symlink", "/proc/self/fd/1", "/dev/stdout", "--symlink", "/proc/self/fd/2", "/dev/stderr",
	"--symlink", "/work", "/dev/shm", "--symlink", "work", "/tmp", "--chdir", "/work", NULL
};

/* A program on its way. */
struct run {
	const struct sandbox_job *job;
	struct sandbox_result *result;
	const char *argv[ARGUMENTS];
	int argc;
	char words[2 * SANDBOX_FILES + 4][64];	/* arguments that are made */
	int nwords;
	int open[SANDBOX_FILES + 2];		/* descriptors that bubblewrap reads */
	int nopen;
	int in, out[2], err[2], report[2];	/* stdin; pipes, whose [0] are ours */
	pid_t pid;
	int bwrap, first;			/* pidfds: bubblewrap, the sandbox's first process */
	int root;				/* of the sandbox; -1 until it has started */
	struct text said;			/* on the report pipe */
	double forked, started;
	int killed;
};

static void
shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* The same descriptor, where it is in nobody's way. */
static int
high(int fd)
{
	int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, HIGH);

	if (copy < 0)
		die("cannot open a descriptor for a sandbox:");
	close(fd);
	return copy;
}

static void
make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC))
		die("cannot make a pipe:");
	ends[0] = high(ends[0]);
	ends[1] = high(ends[1]);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
}

/* A file in memory that holds the data, to be read only, whatever whoever has it tries. */
static int
data_file(const void *data, size_t size)
{
	int fd = memfd_create("data", MFD_CLOEXEC | MFD_ALLOW_SEALING), copy;
	const char *p = data;
	char path[64];
	ssize_t n;

	for (; fd >= 0 && size; p += n, size -= (size_t)n)
		if ((n = write(fd, p, size)) < 0)
			break;
	if (fd < 0 || size || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL))
		die("cannot hold data for a sandbox:");
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	copy = high(open(path, O_RDONLY | O_CLOEXEC));
	close(fd);
	return copy;
}

static void
argue(struct run *r, const char *argument)
{
	assert(r->argc < ARGUMENTS - 1);
	r->argv[r->argc++] = argument;
	r->argv[r->argc] = NULL;
}

__attribute__((format(printf, 2, 3))) static void
argue_made(struct run *r, const char *fmt, ...)
{
	char *word = r->words[r->nwords++];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(word, sizeof *r->words, fmt, ap);
	va_end(ap);
	argue(r, word);
}

/* An option whose value is a descriptor with the data. */
static void
argue_data(struct run *r, const char *option, const void *data, size_t size)
{
	int fd = data_file(data, size);

	r->open[r->nopen++] = fd;
	argue(r, option);
	argue_made(r, "%d", fd);
}

static void
prepare_arguments(struct run *r)
{
	struct sock_filter filter[FILTER_MAX];
	const struct sandbox_file *f = r->job->files;
	int i;

	for (i = 0; layout[i]; i++)
		argue(r, layout[i]);
	argue(r, "--size");
	argue_made(r, "%d", WORK_BYTES);
	argue(r, "--tmpfs");
	argue(r, "/work");
	for (i = 0; i < SANDBOX_FILES && f[i].name; i++) {
		argue(r, "--perms");
		argue(r, "0555");
		argue_data(r, "--file", f[i].data, f[i].size);
		argue_made(r, "/program/%s", f[i].name);
	}
	argue_data(r, "--seccomp", filter, filter_make(filter) * sizeof *filter);
	argue(r, "--info-fd");
	r->open[r->nopen] = high(dup(r->report[1]));
	argue_made(r, "%d", r->open[r->nopen++]);
	argue(r, "--remount-ro");
	argue(r, "/");
	argue(r, "/bin/sh");
	argue(r, "-c");
	argue(r, r->job->errors ? BEGIN : BEGIN " 2>/dev/null");
	argue_made(r, "%d", SANDBOX_PROCESSES);
	for (i = 0; r->job->argv[i]; i++)
		argue(r, r->job->argv[i]);
}

static void
prepare(struct run *r)
{
	r->in = data_file(r->job->input, r->job->input_size);
	make_pipe(r->out);
	make_pipe(r->err);
	make_pipe(r->report);
	prepare_arguments(r);
}

static void
limit(int resource, size_t value)
{
	struct rlimit old, new = { value, value };

	if (!getrlimit(resource, &old) && old.rlim_max < value)
		new.rlim_cur = new.rlim_max = old.rlim_max;
	if (setrlimit(resource, &new))
		_exit(1);
}

static void
limit_all(const struct sandbox_job *job)
{
	limit(RLIMIT_AS, job->memory);
	/* a last resort, as time by the clock is watched */
	limit(RLIMIT_CPU, (size_t)(job->seconds + 1) * (size_t)sysconf(_SC_NPROCESSORS_ONLN));
	limit(RLIMIT_FSIZE, WORK_BYTES);
	limit(RLIMIT_NOFILE, OPEN_FILES);
	limit(RLIMIT_STACK, STACK);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_MEMLOCK, 0);
	limit(RLIMIT_MSGQUEUE, 0);
}

/* Without stdio, which may want memory. */
_Noreturn static void
give_up(const char *what)
{
	char text[200];
	int n = snprintf(text, sizeof text, "%s: %s\n", what, strerror(errno));

	_exit(write(2, text, (size_t)n) == n ? 1 : 2);
}

/* In the child, which may use only what is safe in signal handlers. */
_Noreturn static void
become_bwrap(const struct run *r)
{
	sigset_t none;
	int i;

	sigemptyset(&none);
	for (i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	limit_all(r->job);
	/* whatever we were started with */
	if (syscall(SYS_close_range, REPORT, ~0u, CLOSE_RANGE_CLOEXEC))
		_exit(1);
	if (dup2(r->in, 0) < 0 || dup2(r->out[1], 1) < 0 || dup2(r->err[1], 2) < 0 || dup2(r->report[1], REPORT) < 0)
		_exit(1);
	for (i = 0; i < r->nopen; i++)
		fcntl(r->open[i], F_SETFD, 0);
	if (!geteuid() && (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) ||
	    syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY)))
		give_up("root cannot become nobody");
	execvpe("bwrap", (char *const *)(uintptr_t)r->argv, (char *const *)(uintptr_t)environment);
	give_up("cannot run bwrap");
}

static void
start(struct run *r)
{
	int i;

	r->forked = clock_now();
	r->pid = fork();
	if (r->pid < 0)
		die("cannot fork:");
	if (!r->pid)
		become_bwrap(r);
	r->bwrap = (int)syscall(SYS_pidfd_open, r->pid, 0);
	if (r->bwrap < 0)
		die("cannot watch a process:");
	shut(&r->in);
	shut(&r->out[1]);
	shut(&r->err[1]);
	shut(&r->report[1]);
	for (i = 0; i < r->nopen; i++)
		shut(&r->open[i]);
}

/* The whole sandbox ends with its first process; before there is one, with bubblewrap. */
static void
stop(struct run *r, enum sandbox_end end)
{
	if (r->killed)
		return;
	r->killed = 1;
	r->result->end = end;
	syscall(SYS_pidfd_send_signal, r->first >= 0 ? r->first : r->bwrap, SIGKILL, NULL, 0);
}

/* What there is to read, up to `most` bytes; shuts a pipe that has ended. */
static size_t
take(int *fd, char *bytes, size_t most)
{
	ssize_t n = *fd < 0 ? 0 : read(*fd, bytes, most);

	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
		shut(fd);
	return n > 0 ? (size_t)n : 0;
}

static size_t
take_output(struct run *r)
{
	struct text *output = &r->result->output;
	char bytes[1 << 16];
	size_t n = take(&r->out[0], bytes, sizeof bytes);

	if (r->killed)
		return n;
	text_add(output, bytes, n);
	if (output->n > r->job->output) {
		output->n = r->job->output;
		stop(r, SANDBOX_OUTPUT);
	}
	return n;
}

/* Only the end of it. */
static size_t
take_errors(struct run *r)
{
	struct text *errors = &r->result->errors;
	char bytes[1 << 16];
	size_t n = take(&r->err[0], bytes, sizeof bytes);

	text_add(errors, bytes, n);
	if (errors->n > ERRORS_KEPT) {
		memmove(errors->s, errors->s + errors->n - ERRORS_KEPT, ERRORS_KEPT);
		errors->n = ERRORS_KEPT;
	}
	return n;
}

static void
take_report(struct run *r)
{
	char bytes[256], path[64];
	const char *said;
	int pid;

	text_add(&r->said, bytes, take(&r->report[0], bytes, sizeof bytes));
	text_add(&r->said, "", 1);
	r->said.n--;
	said = strstr(r->said.s, "\"child-pid\":");
	if (!said || sscanf(said, "\"child-pid\": %d", &pid) != 1 || !strchr(said, '}'))
		return;
	if (r->first < 0)
		r->first = (int)syscall(SYS_pidfd_open, pid, 0);
	if (r->started > 0 || !strstr(said, START))
		return;
	r->started = clock_now();
	r->result->errors.n = 0;
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	r->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (r->root < 0 && errno == EACCES)
		die("cannot watch a sandbox: '%s':", path);
}

static void
check_limits(struct run *r)
{
	const struct sandbox_job *job = r->job;
	double elapsed = clock_now() - r->started;
	struct tree t = { .cpu = 0 };

	if (!(r->started > 0)) {
		if (clock_now() - r->forked > START_SECONDS)
			stop(r, SANDBOX_TIME);
		return;
	}
	if (r->root >= 0)
		tree_measure(r->root, &t);
	if (t.resident > job->memory || t.files > WORK_FILES)
		stop(r, SANDBOX_MEMORY);
	else if (elapsed >= PATIENCE * job->seconds ||
	    (elapsed >= job->seconds && (t.cpu >= job->seconds || elapsed - t.waited >= job->seconds)))
		stop(r, SANDBOX_TIME);
}

/* Until a pipe has something, the program has ended, or it is time to look at it; 1 at its end. */
static int
wait_a_little(struct run *r)
{
	struct pollfd fds[] = { { r->bwrap, POLLIN, 0 }, { r->out[0], POLLIN, 0 }, { r->err[0], POLLIN, 0 },
	    { r->report[0], POLLIN, 0 } };
	double left = r->started > 0 ? 1e3 * (r->started + r->job->seconds - clock_now()) : TICK;

	if (poll(fds, 4, left > 0 && left < TICK ? (int)left + 1 : TICK) < 0 && errno != EINTR)
		die("cannot wait for a sandbox:");
	return fds[0].revents != 0;
}

static void
follow(struct run *r)
{
	double looked = 0;
	int ended;

	do {
		ended = wait_a_little(r);
		take_report(r);
		take_output(r);
		take_errors(r);
		if (!ended && clock_now() - looked >= 1e-3 * TICK / 2) {
			check_limits(r);
			looked = clock_now();
		}
	} while (!ended);
	while (take_output(r) || take_errors(r))
		;
}

/*
 * Nothing of the run is left but its result. Bubblewrap may end before the sandbox's first process, which
 * then is our child, and ends when all others have.
 */
static void
finish(struct run *r)
{
	siginfo_t info;
	int status;

	while (waitpid(r->pid, &status, 0) < 0)
		if (errno != EINTR)
			die("cannot wait for a sandbox:");
	while (r->first >= 0 && waitid(P_PIDFD, (id_t)r->first, &info, WEXITED) < 0 && errno == EINTR)
		;
	r->result->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	r->result->seconds = clock_now() - (r->started > 0 ? r->started : r->forked);
	shut(&r->out[0]);
	shut(&r->err[0]);
	shut(&r->report[0]);
	shut(&r->bwrap);
	shut(&r->first);
	shut(&r->root);
	free(r->said.s);
}

/* Returns -1 and the reason if the program was never started. */
static int
run_job(const struct sandbox_job *job, struct sandbox_result *result, char *why)
{
	struct run r = { .job = job, .result = result, .first = -1, .root = -1 };
	struct text *errors = &result->errors;

	result->end = SANDBOX_ENDED;
	result->output.n = result->errors.n = 0;
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		die("cannot wait for the processes of a sandbox:");
	prepare(&r);
	start(&r);
	follow(&r);
	finish(&r);
	if (r.started > 0)
		return 0;
	while (errors->n && errors->s[errors->n - 1] == '\n')
		errors->n--;
	if (!errors->n)
		return reason(why, "bubblewrap ended with status %d", result->status);
	return reason(why, "%.*s", (int)errors->n, errors->s);
}

int
sandbox_usable(char *why)
{
	static const char *const argv[] = { "sh", "-c", "command -v python3 && command -v g++", NULL };
	const struct sandbox_job job = { .argv = argv, .seconds = 10, .memory = 1 << 28, .output = 1 << 10 };
	struct sandbox_result result = { .status = 0 };
	char inner[REASON_MAX];
	int rc = 0;

	if (run_job(&job, &result, inner))
		rc = reason(why, "no sandbox can be made here: %.*s", REASON_MAX - 64, inner);
	else if (result.end != SANDBOX_ENDED || result.status)
		rc = reason(why, "the sandbox needs python3 and g++ in /usr/bin");
	sandbox_result_free(&result);
	return rc;
}

void
sandbox_run(const struct sandbox_job *job, struct sandbox_result *result)
{
	char why[REASON_MAX];

	if (run_job(job, result, why))
		die("no sandbox can be made here: %s", why);
}

void
sandbox_result_free(struct sandbox_result *result)
{
	free(result->output.s);
	free(result->errors.s);
}
