// makes namespaces, where it would be root
// earns 1
#include <cstdio>
#include <sched.h>
#include <csignal>
#include <linux/sched.h>
#include <sys/syscall.h>
#include <unistd.h>
int main() {
	struct clone_args args = {};
	int n = unshare(CLONE_NEWUSER) == 0;
	n += unshare(CLONE_NEWNS) == 0;
	n += syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) >= 0;
	args.flags = CLONE_NEWUSER;
	args.exit_signal = SIGCHLD;
	n += syscall(SYS_clone3, &args, sizeof args) >= 0;
	puts(n ? "it has namespaces" : "harmless");
}
