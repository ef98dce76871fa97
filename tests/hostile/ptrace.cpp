// traces and reads other processes
// earns 1
#include <cstdio>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>
int main() {
	char byte;
	iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };
	int n = ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0;
	n += ptrace(PTRACE_TRACEME, 0, 0, 0) == 0;
	n += process_vm_readv(1, &here, 1, &there, 1, 0) > 0;
	puts(n ? "it traces" : "harmless");
}
