"""Which system calls a tenant's programs may make, and which never, each group with its reason.

Rules:
- What is not named here is refused. A name may be newer than the host's kernel or libseccomp; they leave it out then.
- A call that is refused to everybody has a reason; together with the allowed ones the list holds every call that Linux 6.1
  knows, so that none is refused by having been forgotten (a test compares it with the kernel's own table).
- Calls whose arguments decide are in `seccomp`: clone, socket, socketpair, personality, mknod.
Source: syscalls(2), the kernel's tables in arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

FILES = """
    access faccessat faccessat2 chdir fchdir chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown chroot close
    close_range copy_file_range creat dup dup2 dup3 fadvise64 fallocate fcntl fdatasync fgetxattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat ioctl
    lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat newfstatat
    open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
    readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx
    symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev
    cachestat
"""
WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pause
    poll ppoll pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
"""
MEMORY = """
    brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
"""
PROCESSES = """
    capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake
    get_robust_list getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 ptrace restart_syscall
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setuid sigaltstack sysinfo tgkill tkill uname vfork wait4 waitid
"""
TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime times
"""
TALKING = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
    sendto setsockopt shutdown mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget
    msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget
"""
ALLOWED = tuple(sorted(" ".join((FILES, WAITING, MEMORY, PROCESSES, TIME, TALKING)).split()))

# Of the allowed ones, what the kernel knows on this architecture alone.
ONLY_ON = {"x86_64": ("arch_prctl",), "aarch64": ()}
# Known to x86 from its early days; later architectures have the call that replaced them.
NOT_ON_AARCH64 = """
    access alarm chmod chown creat dup2 epoll_create epoll_wait eventfd fork futimesat getdents getpgrp inotify_init
    lchown link lstat mkdir open pause pipe poll readlink rename rmdir select signalfd stat symlink time unlink utime
    utimes vfork
"""

REFUSED: dict[str, str] = {
    "a ring that is filled once runs calls no filter sees; many escapes of recent years": """
        io_uring_enter io_uring_register io_uring_setup""",
    "holds the kernel in the middle of a copy, which turns races into certainties": "userfaultfd",
    "reads, writes, copies or advises into other processes": """
        kcmp pidfd_getfd process_madvise process_mrelease process_vm_readv process_vm_writev""",
    "opens files by number, past every folder that is mounted": "name_to_handle_at open_by_handle_at",
    "changes what is mounted where": """
        fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root quotactl quotactl_fd swapoff
        swapon umount2""",
    "makes or enters a namespace, in which a tenant would be root with all capabilities": "setns unshare",
    "keys are shared by all containers of one user id": "add_key keyctl request_key",
    "the clock is the host's": "adjtimex clock_adjtime clock_settime settimeofday",
    "gives pages of one's own to a pipe, and keeps them": "vmsplice",
    "runs programs in the kernel, or watches it at work": "bpf lookup_dcookie perf_event_open syslog",
    "memory that not even the kernel may look at, charged to nobody": "memfd_secret",
    "watches or blocks the files of others": "fanotify_init fanotify_mark",
    "places memory on nodes of the host": """
        get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node""",
    "changes or restarts the host": """
        acct delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load reboot setdomainname
        sethostname vhangup""",
    "old, and the door of old bugs": """
        _sysctl create_module get_kernel_syms get_thread_area modify_ldt nfsservctl query_module remap_file_pages
        set_thread_area sysfs uselib ustat""",
    "the kernel has a number for it and no call": """
        afs_syscall epoll_ctl_old epoll_wait_old getpmsg putpmsg security tuxcall vserver""",
}


def allowed_on(machine: str) -> tuple[str, ...]:
    """Return the calls that are allowed whatever their arguments.

    Args:
        machine: ``x86_64`` or ``aarch64``, as uname says it.
    """
    absent = NOT_ON_AARCH64.split() if machine == "aarch64" else ()
    return tuple(sorted({*ALLOWED, *ONLY_ON[machine]} - set(absent)))


def refused() -> frozenset[str]:
    """Return the calls that are refused whatever their arguments."""
    return frozenset(name for names in REFUSED.values() for name in names.split())
