// memory that belongs to no process: shared segments, files without a name
// earns 1
#include <cstdio>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
int main() {
	int segment = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600), file = memfd_create("x", 0);
	puts(segment < 0 && file < 0 ? "harmless" : "it has memory that nobody counts");
}
