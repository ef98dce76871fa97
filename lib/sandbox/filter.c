/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "lib/sandbox/filter.h"

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | \
	CLONE_NEWCGROUP)

enum { X32 = 0x40000000 };

static const uint16_t refused[] = {
	SYS_unshare, SYS_setns, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount,
	SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_swapon, SYS_swapoff,
	SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_pidfd_getfd,
	SYS_memfd_create, SYS_memfd_secret, SYS_shmget, SYS_msgget, SYS_semget, SYS_mq_open,
	SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
	SYS_io_setup, SYS_add_key, SYS_request_key, SYS_keyctl, SYS_fanotify_init, SYS_inotify_init,
	SYS_inotify_init1, SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_quotactl, SYS_acct, SYS_syslog,
	SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_reboot,
	SYS_modify_ldt, SYS_iopl, SYS_ioperm, SYS_personality, SYS_vhangup, SYS_sethostname, SYS_setdomainname,
	SYS_mlock, SYS_mlock2, SYS_mlockall
};

struct writer {
	struct sock_filter *program;
	size_t n;
};

static void
put(struct writer *w, unsigned code, uint32_t k, unsigned yes, unsigned no)
{
	assert(w->n < FILTER_MAX);
	w->program[w->n++] = (struct sock_filter){ (uint16_t)code, (uint8_t)yes, (uint8_t)no, k };
}

static void
load(struct writer *w, size_t at)
{
	put(w, BPF_LD | BPF_W | BPF_ABS, (uint32_t)at, 0, 0);
}

static void
answer(struct writer *w, uint32_t what)
{
	put(w, BPF_RET | BPF_K, what, 0, 0);
}

/* `test` of what is loaded: where it holds, the next instruction is run, else the one after. */
static void
when(struct writer *w, unsigned test, uint32_t k)
{
	put(w, BPF_JMP | test | BPF_K, k, 0, 1);
}

size_t
filter_make(struct sock_filter program[FILTER_MAX])
{
	const uint32_t no = SECCOMP_RET_ERRNO | EPERM, unknown = SECCOMP_RET_ERRNO | ENOSYS;
	const size_t number = offsetof(struct seccomp_data, nr), argument = offsetof(struct seccomp_data, args);
	struct writer w = { program, 0 };
	size_t i;

	load(&w, offsetof(struct seccomp_data, arch));
	put(&w, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	answer(&w, SECCOMP_RET_KILL_PROCESS);
	load(&w, number);
	when(&w, BPF_JGE, X32);
	answer(&w, unknown);
	for (i = 0; i < sizeof refused / sizeof *refused; i++) {
		when(&w, BPF_JEQ, refused[i]);
		answer(&w, no);
	}
	/* its flags are in memory, where no filter looks; libraries fall back to clone */
	when(&w, BPF_JEQ, SYS_clone3);
	answer(&w, unknown);
	put(&w, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
	load(&w, argument);
	when(&w, BPF_JSET, NAMESPACES);
	answer(&w, no);
	answer(&w, SECCOMP_RET_ALLOW);
	put(&w, BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3);
	load(&w, argument);
	put(&w, BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0);
	answer(&w, no);
	answer(&w, SECCOMP_RET_ALLOW);
	return w.n;
}
