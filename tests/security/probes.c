/* What a tenant might try with the kernel, one small function per attempt, each in a process of its own.
 *
 * Prints one line per probe: NAME succeeded, or NAME stopped and why. An attempt that succeeds changes nothing lasting:
 * it sets what is there already, asks for what does not exist (any answer but a refusal shows that the way is open),
 * or takes back what it did. `probes take KIND` and `probes one KIND` are tools of the attacks on what is counted.
 * Build: cc -O1 -static -o probes probes.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

#define SECONDS_MAX 5
#define REFUSED(error) ((error) == EPERM || (error) == EACCES || (error) == ENOSYS)

static char memory[1 << 16];

/* 0 when the call worked, else why not. */
static int result(long value) { return value < 0 ? errno : 0; }

/* 0 when the call worked or got far enough to see that its arguments are nonsense. */
static int reached(long value) { return value >= 0 || !REFUSED(errno) ? 0 : errno; }

static pid_t sleeping_child(void) {
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    return child;
}

static int and_kill(pid_t child, int outcome) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return outcome;
}

/* System calls. */
static int io_uring(void) { return result(syscall(SYS_io_uring_setup, 8, memory)); }
static int user_fault(void) { return result(syscall(SYS_userfaultfd, 1)); }
static int read_process(void) {
    pid_t child = sleeping_child();
    struct iovec here = {memory, 8}, there = {memory, 8};
    return and_kill(child, result(syscall(SYS_process_vm_readv, child, &here, 1, &there, 1, 0)));
}
static int write_process(void) {
    pid_t child = sleeping_child();
    struct iovec here = {memory, 8}, there = {memory, 8};
    return and_kill(child, result(syscall(SYS_process_vm_writev, child, &here, 1, &there, 1, 0)));
}
static int take_descriptor(void) {
    pid_t child = sleeping_child();
    long handle = syscall(SYS_pidfd_open, child, 0);
    return and_kill(child, handle < 0 ? errno : result(syscall(SYS_pidfd_getfd, handle, 1, 0)));
}
static int compare_processes(void) { return result(syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0)); }
struct handle { unsigned bytes; int type; unsigned char data[128]; };
static int name_handle(void) {
    struct handle handle = {.bytes = sizeof handle.data};
    int mount_id;
    return result(syscall(SYS_name_to_handle_at, AT_FDCWD, "/etc/hostname", &handle, &mount_id, 0));
}
static int open_handle(void) {
    struct handle handle = {.bytes = sizeof handle.data};
    int mount_id, folder = open("/etc/hostname", O_RDONLY);
    if (syscall(SYS_name_to_handle_at, AT_FDCWD, "/etc/hostname", &handle, &mount_id, 0) < 0) return errno;
    return result(syscall(SYS_open_by_handle_at, folder, &handle, O_RDONLY));
}
static int read_clock_state(void) {
    struct timex state = {.modes = 0};
    return result(syscall(SYS_clock_adjtime, 0, &state));
}
static int set_clock(void) {
    struct timex state = {.modes = 0};
    if (adjtimex(&state) < 0) return errno;
    state.modes = ADJ_TICK;
    return result(adjtimex(&state));
}
static int gift_pages(void) {
    int ends[2];
    struct iovec piece = {memory, 4096};
    if (pipe(ends) < 0) return errno;
    return result(syscall(SYS_vmsplice, ends[1], &piece, 1, 0));
}
static int add_key(void) { return result(syscall(SYS_add_key, "user", "polarise", "x", 1, -2)); }
static int read_keyring(void) { return result(syscall(SYS_keyctl, 0, -3, 1)); }
static int request_key(void) { return reached(syscall(SYS_request_key, "user", "polarise:none", NULL, 0)); }
static int mount_tmpfs(void) {
    if (mount("none", "/mnt", "tmpfs", 0, NULL) < 0) return errno;
    return result(umount("/mnt"));
}
static int mount_cgroup(void) {
    if (mount("none", "/mnt", "cgroup2", 0, NULL) < 0 && mount("none", "/mnt", "cgroup", 0, "memory") < 0) return errno;
    return result(umount("/mnt"));
}
static int new_mount_api(void) { return result(syscall(SYS_fsopen, "tmpfs", 0)); }
static int copy_mounts(void) { return result(syscall(SYS_open_tree, AT_FDCWD, "/", 1)); }
static int change_mount(void) {
    uint64_t attributes[4] = {0};
    return result(syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attributes, sizeof attributes));
}
static int new_user_namespace(void) { return result(unshare(CLONE_NEWUSER)); }
static int new_mount_namespace(void) { return result(unshare(CLONE_NEWNS)); }
static int new_network_namespace(void) { return result(unshare(CLONE_NEWNET)); }
static int new_process_namespace(void) { return result(unshare(CLONE_NEWPID)); }
static int new_name_namespace(void) { return result(unshare(CLONE_NEWUTS)); }
static int new_ipc_namespace(void) { return result(unshare(CLONE_NEWIPC)); }
static int new_cgroup_namespace(void) { return result(unshare(CLONE_NEWCGROUP)); }
static int clone_user_namespace(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return result(child);
}
static int clone3_user_namespace(void) {
    uint64_t arguments[11] = {[0] = CLONE_NEWUSER, [4] = SIGCHLD};
    long child = syscall(SYS_clone3, arguments, 64);
    if (child == 0) _exit(0);
    return result(child);
}
static int enter_namespace(void) {
    int space = open("/proc/self/ns/uts", O_RDONLY);
    return space < 0 ? errno : result(setns(space, 0));
}
static int load_bpf(void) {
    uint32_t map[16] = {2, 4, 8, 1};
    return result(syscall(SYS_bpf, 0, map, sizeof map));
}
static int watch_performance(void) {
    uint32_t event[32] = {1, 128};
    return result(syscall(SYS_perf_event_open, event, 0, -1, -1, 0));
}
static int read_kernel_log(void) { return result(syscall(SYS_syslog, 3, memory, sizeof memory)); }
static int secret_memory(void) { return result(syscall(SYS_memfd_secret, 0)); }
static int watch_files(void) { return result(syscall(SYS_fanotify_init, 0, 0)); }
static int sync_quotas(void) { return result(syscall(SYS_quotactl, 0x80000100, NULL, 0, NULL)); }
static int place_memory(void) { return result(syscall(SYS_set_mempolicy, 0, NULL, 0)); }
static int move_memory(void) { return result(syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0)); }
static int add_swap(void) { return reached(syscall(SYS_swapon, "/no/such/file", 0)); }
static int account_processes(void) { return reached(acct("/no/such/file")); }
static int restart_host(void) { return reached(syscall(SYS_reboot, 0, 0, 0, 0)); }
static int load_module(void) { return reached(syscall(SYS_init_module, memory, 16, "")); }
static int load_module_file(void) { return reached(syscall(SYS_finit_module, -1, "", 0)); }
static int remove_module(void) { return reached(syscall(SYS_delete_module, "polarise_none", O_NONBLOCK)); }
static int load_kernel(void) { return reached(syscall(SYS_kexec_load, 0, 1000, NULL, 0)); }
static int set_host_name(void) {
    struct utsname name;
    uname(&name);
    return result(sethostname(name.nodename, strlen(name.nodename)));
}
static int set_domain_name(void) {
    struct utsname name;
    uname(&name);
    return result(setdomainname(name.domainname, strlen(name.domainname)));
}
static int hang_up_terminal(void) { return result(vhangup()); }
static int old_personality(void) { return result(syscall(SYS_personality, 0x0020000)); }
static int remap_file(void) {
    void *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return result(syscall(SYS_remap_file_pages, page, 4096, 0, 1, 0));
}
#if defined __x86_64__
static int port_level(void) { return result(syscall(SYS_iopl, 3)); }
static int port_access(void) { return result(syscall(SYS_ioperm, 0x80, 1, 1)); }
static int segment_table(void) { return result(syscall(SYS_modify_ldt, 0, memory, 16)); }
static int list_file_systems(void) { return result(syscall(SYS_sysfs, 3)); }
static int call_as_32_bit(void) {
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "memory");
    return answer > 0 ? 0 : ENOSYS;
}
#endif

/* Sockets. */
static int open_socket(int family, int type, int protocol) {
    int fd = socket(family, type, protocol);
    return result(fd);
}
static int packet_socket(void) { return open_socket(AF_PACKET, SOCK_RAW, 0x0300); }
static int raw_socket(void) { return open_socket(AF_INET, SOCK_RAW, 1); }
static int vsock_socket(void) { return open_socket(AF_VSOCK, SOCK_STREAM, 0); }
static int crypto_socket(void) { return open_socket(AF_ALG, SOCK_SEQPACKET, 0); }
static int key_socket(void) { return open_socket(AF_KEY, SOCK_RAW, 2); }
static int xdp_socket(void) { return open_socket(44, SOCK_RAW, 0); }
static int can_socket(void) { return open_socket(AF_CAN, SOCK_RAW, 1); }
static int tipc_socket(void) { return open_socket(AF_TIPC, SOCK_RDM, 0); }
static int rds_socket(void) { return open_socket(21, SOCK_SEQPACKET, 0); }
static int bluetooth_socket(void) { return open_socket(AF_BLUETOOTH, SOCK_RAW, 1); }
static int ppp_socket(void) { return open_socket(24, SOCK_STREAM, 0); }
static int smc_socket(void) { return open_socket(43, SOCK_STREAM, 0); }
static int sctp_socket(void) { return open_socket(AF_INET, SOCK_STREAM, 132); }
static int dccp_socket(void) { return open_socket(AF_INET, 6, 33); }
static int udplite_socket(void) { return open_socket(AF_INET, SOCK_DGRAM, 136); }
static int mptcp_socket(void) { return open_socket(AF_INET, SOCK_STREAM, 262); }
static int l2tp_socket(void) { return open_socket(AF_INET, SOCK_DGRAM, 115); }
static int device_netlink(void) { return open_socket(AF_NETLINK, SOCK_RAW, 15); }
static int generic_netlink(void) { return open_socket(AF_NETLINK, SOCK_RAW, 16); }
static int filter_netlink(void) { return open_socket(AF_NETLINK, SOCK_RAW, 12); }
static int transform_netlink(void) { return open_socket(AF_NETLINK, SOCK_RAW, 6); }
static int route_netlink(void) { return open_socket(AF_NETLINK, SOCK_RAW, 0); }
static int set_interface(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || ioctl(fd, SIOCGIFMTU, &request) < 0) return errno;
    return result(ioctl(fd, SIOCSIFMTU, &request));
}

/* Devices and files. */
static int make_device(mode_t kind, dev_t device) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/device-%d", getpid());
    if (mknod(path, kind | 0600, device) < 0) return errno;
    return result(unlink(path));
}
static int make_character_device(void) { return make_device(S_IFCHR, makedev(1, 1)); }
static int make_block_device(void) { return make_device(S_IFBLK, makedev(7, 0)); }
static int some_file(char *path, size_t size) {
    snprintf(path, size, "/tmp/file-%d", getpid());
    return open(path, O_CREAT | O_RDWR, 0755);
}
static int file_capability(void) {
    char path[64];
    struct vfs_cap_data data = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE};
    data.data[0].permitted = 1 << CAP_CHOWN;
    if (some_file(path, sizeof path) < 0) return errno;
    int outcome = result(setxattr(path, "security.capability", &data, sizeof data, 0));
    unlink(path);
    return outcome;
}
static int immutable_file(void) {
    char path[64];
    long flags = 0;
    int fd = some_file(path, sizeof path);
    if (fd < 0 || ioctl(fd, _IOR('f', 1, long), &flags) < 0) return errno;
    flags |= 0x10;
    int outcome = result(ioctl(fd, _IOW('f', 2, long), &flags));
    flags &= ~0x10L;
    ioctl(fd, _IOW('f', 2, long), &flags);
    unlink(path);
    return outcome;
}
/* A copy of this program that belongs to root and says so to the kernel; another user starts it. */
static int gain_by_setuid(void) {
    char path[64], piece[65536];
    int from = open("/proc/self/exe", O_RDONLY), to = some_file(path, sizeof path), status;
    for (ssize_t count; (count = read(from, piece, sizeof piece)) > 0;)
        if (write(to, piece, count) != count) return errno;
    close(to);
    if (chown(path, 0, 0) < 0 || chmod(path, 04755) < 0) return errno;
    pid_t child = fork();
    if (child == 0) {
        if (setgid(12345) < 0 || setuid(12345) < 0) _exit(1);
        execl(path, path, "am-i-root", NULL);
        _exit(1);
    }
    waitpid(child, &status, 0);
    unlink(path);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EPERM;
}

/* What the kernel shows as files: opened, never written. Whoever may, first takes away what lies over them. */
static int open_masked(const char *path, const char *mounted, int flags) {
    umount(path);
    if (mounted != NULL) mount(NULL, mounted, NULL, MS_REMOUNT | MS_BIND, NULL);
    int fd = open(path, flags);
    if (fd < 0) return errno;
    if (flags == O_RDONLY && read(fd, memory, 4) <= 0) return EACCES;
    return 0;
}
static int read_kernel_memory(void) { return open_masked("/proc/kcore", NULL, O_RDONLY); }
static int read_key_list(void) { return open_masked("/proc/keys", NULL, O_RDONLY); }
static int read_timer_list(void) { return open_masked("/proc/timer_list", NULL, O_RDONLY); }
static int write_sysrq(void) { return open_masked("/proc/sysrq-trigger", "/proc/sysrq-trigger", O_WRONLY); }
static int write_core_pattern(void) { return open_masked("/proc/sys/kernel/core_pattern", "/proc/sys", O_WRONLY); }
static int write_panic_setting(void) { return open_masked("/proc/sys/kernel/panic", "/proc/sys", O_WRONLY); }
static int write_module_helper(void) { return open_masked("/proc/sys/kernel/modprobe", "/proc/sys", O_WRONLY); }
static int write_interrupts(void) { return open_masked("/proc/irq/default_smp_affinity", "/proc/irq", O_WRONLY); }
static int write_huge_pages(void) {
    return open_masked("/sys/kernel/mm/transparent_hugepage/enabled", "/sys", O_WRONLY);
}
static int raise_memory_limit(void) {
    if (access("/sys/fs/cgroup/memory", F_OK) == 0)
        return open_masked("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory", O_WRONLY);
    return open_masked("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup", O_WRONLY);
}

/* Taking more than a share. */
static int raise_priority(void) { return result(setpriority(PRIO_PROCESS, 0, -5)); }
static int real_time(void) {
    struct sched_param wish = {1};
    return result(sched_setscheduler(0, SCHED_FIFO, &wish));
}
static int real_time_input_output(void) { return result(syscall(SYS_ioprio_set, 1, 0, 1 << 13)); }
static int outlive_others(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    return fd < 0 ? errno : result(write(fd, "-1000", 5));
}
static int raise_file_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max += 1;
    return result(setrlimit(RLIMIT_NOFILE, &limit));
}
static int lock_memory(void) {
    size_t size = 16 << 20;
    void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return result(mlock(block, size));
}
static int leave_core(void) {
    struct rlimit limit = {1 << 20, 1 << 20};
    return result(setrlimit(RLIMIT_CORE, &limit));
}

/* Meant to work: debuggers, package managers and sshd need them. */
static int trace_own_child(void) {
    pid_t child = sleeping_child();
    int outcome = result(ptrace(PTRACE_ATTACH, child, 0, 0));
    return and_kill(child, outcome);
}
static int change_root(void) { return result(chroot("/")); }
static int become_another_user(void) { return result(setuid(65534)); }

#define PROBE(name) {#name, name}
static const struct { const char *name; int (*attempt)(void); } PROBES[] = {
    PROBE(io_uring), PROBE(user_fault), PROBE(read_process), PROBE(write_process), PROBE(take_descriptor),
    PROBE(compare_processes), PROBE(name_handle), PROBE(open_handle), PROBE(read_clock_state), PROBE(set_clock),
    PROBE(gift_pages), PROBE(add_key), PROBE(read_keyring), PROBE(request_key), PROBE(mount_tmpfs),
    PROBE(mount_cgroup), PROBE(new_mount_api), PROBE(copy_mounts), PROBE(change_mount), PROBE(new_user_namespace),
    PROBE(new_mount_namespace), PROBE(new_network_namespace), PROBE(new_process_namespace),
    PROBE(new_name_namespace), PROBE(new_ipc_namespace), PROBE(new_cgroup_namespace), PROBE(clone_user_namespace),
    PROBE(clone3_user_namespace), PROBE(enter_namespace), PROBE(load_bpf), PROBE(watch_performance),
    PROBE(read_kernel_log), PROBE(secret_memory), PROBE(watch_files), PROBE(sync_quotas), PROBE(place_memory),
    PROBE(move_memory), PROBE(add_swap), PROBE(account_processes), PROBE(restart_host), PROBE(load_module),
    PROBE(load_module_file), PROBE(remove_module), PROBE(load_kernel), PROBE(set_host_name), PROBE(set_domain_name),
    PROBE(hang_up_terminal), PROBE(old_personality), PROBE(remap_file),
#if defined __x86_64__
    PROBE(port_level), PROBE(port_access), PROBE(segment_table), PROBE(list_file_systems), PROBE(call_as_32_bit),
#endif
    PROBE(packet_socket), PROBE(raw_socket), PROBE(vsock_socket), PROBE(crypto_socket), PROBE(key_socket),
    PROBE(xdp_socket), PROBE(can_socket), PROBE(tipc_socket), PROBE(rds_socket), PROBE(bluetooth_socket),
    PROBE(ppp_socket), PROBE(smc_socket), PROBE(sctp_socket), PROBE(dccp_socket), PROBE(udplite_socket),
    PROBE(mptcp_socket), PROBE(l2tp_socket), PROBE(device_netlink), PROBE(generic_netlink), PROBE(filter_netlink),
    PROBE(transform_netlink), PROBE(set_interface), PROBE(make_character_device), PROBE(make_block_device),
    PROBE(file_capability), PROBE(immutable_file), PROBE(gain_by_setuid), PROBE(read_kernel_memory),
    PROBE(read_key_list), PROBE(read_timer_list), PROBE(write_sysrq), PROBE(write_core_pattern),
    PROBE(write_panic_setting), PROBE(write_module_helper), PROBE(write_interrupts), PROBE(write_huge_pages),
    PROBE(raise_memory_limit), PROBE(raise_priority), PROBE(real_time), PROBE(real_time_input_output),
    PROBE(outlive_others), PROBE(raise_file_limit), PROBE(lock_memory), PROBE(leave_core), PROBE(route_netlink),
    PROBE(trace_own_child), PROBE(change_root), PROBE(become_another_user),
};

static void probe(const char *name, int (*attempt)(void)) {
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS_MAX);
        errno = 0;
        int error = attempt();
        _exit(error > 255 ? 255 : error);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s stopped signal %d\n", name, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        printf("%s stopped %s\n", name, strerrorname_np(WEXITSTATUS(status)));
    else
        printf("%s succeeded\n", name);
}

/* What the kernel counts per user or once for all. Each takes one more, and returns less than 0 when there is none. */
static int take_inotify(void) { return inotify_init(); }

static int take_terminal(void) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }

static int take_timer(void) {
    timer_t timer;
    return timer_create(CLOCK_MONOTONIC, NULL, &timer);
}

static int take_queue(void) {
    static int count;
    char name[32];
    snprintf(name, sizeof name, "/probe-%d-%d", getpid(), count++);
    int queue = mq_open(name, O_CREAT | O_RDWR, 0600, NULL);
    if (queue >= 0) mq_unlink(name);
    return queue;
}

/* The events that the whole machine may wait for, by the thousand. */
static int take_events(void) {
    unsigned long context = 0;
    return syscall(SYS_io_setup, 1024, &context) < 0 ? -1 : 0;
}

static const struct {
    const char *name;
    int (*take)(void);
} KINDS[] = {{"inotify", take_inotify}, {"terminal", take_terminal}, {"timer", take_timer},
             {"queue", take_queue}, {"events", take_events}};

/* Take as many as there are, at most so many; say how many, and hold them until stdin ends. */
static int take(const char *kind, long most) {
    long count = 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (strcmp(kind, KINDS[i].name) == 0)
            while (count < most && KINDS[i].take() >= 0) count++;
    printf("%ld %s\n", count, count < most ? strerrorname_np(errno) : "0");
    fflush(stdout);
    while (most > 1 && read(0, memory, 1) > 0) continue;
    return count > 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "am-i-root") == 0) return geteuid() == 0 ? 0 : 1;
    if (argc == 3 && strcmp(argv[1], "take") == 0) return take(argv[2], 1 << 20);
    if (argc == 3 && strcmp(argv[1], "one") == 0) return take(argv[2], 1);
    for (size_t i = 0; i < sizeof PROBES / sizeof *PROBES; i++) probe(PROBES[i].name, PROBES[i].attempt);
    return 0;
}
