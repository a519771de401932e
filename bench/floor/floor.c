/* floor ROOTFS CGROUP BINDS [TREE...]

   What the default bundle costs where nothing is decided, read or recorded: the
   kernel's own work, and so the least that any runtime can take. It makes the
   container that `ferrun spec` describes, with /bin/true as its program, waits for
   it and removes the cgroup.

   CGROUP is the name of the cgroup, from the root of each hierarchy. BINDS is how
   many times ROOTFS/../volume is bound read-only, to /binds/0000 and on. The TREEs
   are the directories of the v1 hierarchies below /sys/fs/cgroup; without any the
   hierarchy is v2. Every path is relative to ROOTFS until pivot_root. */
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "container.h"

enum { SUPER_RDONLY = 1, NOSUID = 2, NODEV = 4, NOEXEC = 8, REMOUNT = 32, BIND = 4096,
       RECURSIVE = 16384, SLAVE = 1 << 19, RELATIME = 1 << 21, STRICTATIME = 1 << 24,
       DETACH = 2, SIOCSIFFLAGS_NUMBER = 0x8914 };

static char stack[32768] __attribute__((aligned(16)));
static char *rootfs, **trees;
static int binds;

/* A new cpuset is empty, and takes no process until it is filled. */
static void inherit(const char *file)
{
    char own[512], text[256] = {0};
    path_of(own, "cpuset", file);
    /* The parent was filled by whoever made it: its file is one directory up. */
    char parent[512];
    long end = length(path_of(parent, "cpuset", ""));
    while (parent[end] != '/')
        end--;
    for (long at = 0; at <= length(file); at++)
        parent[end + at] = file[at];
    long from = must(call(open, parent, O_RDONLY | O_CLOEXEC, 0, 0, 0));
    must(call(read, from, text, sizeof text - 1, 0, 0));
    call(close, from, 0, 0, 0, 0);
    write_file(own, text);
}

static void devices_v1(void)
{
    static const char *const rules[] = {
        "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
        "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm",
    };
    char path[512];
    write_file(path_of(path, "devices", "/devices.deny"), "a");
    long file = must(call(open, path_of(path, "devices", "/devices.allow"), O_WRONLY, 0, 0, 0));
    for (unsigned rule = 0; rule < sizeof rules / sizeof *rules; rule++)
        must(call(write, file, rules[rule], length(rules[rule]), 0, 0));
    call(close, file, 0, 0, 0, 0);
}

#define OP(code_, dst, off_, imm_) {.code = (code_), .dst_reg = (dst), .off = (off_), .imm = (imm_)}
#define LOAD(dst, offset) {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = (dst), .src_reg = 1, .off = (offset)}
#define ALLOW OP(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 1), OP(BPF_JMP | BPF_EXIT, 0, 0, 0)
#define UNLESS(reg, value, skip) OP(BPF_JMP | BPF_JNE | BPF_K, reg, skip, value)
#define CHARACTER(major, minor) UNLESS(2, 2, 4), UNLESS(4, major, 3), UNLESS(5, minor, 2), ALLOW

static void devices_v2(long directory)
{
    static const struct bpf_insn program[] = {
        LOAD(2, 0), LOAD(3, 0), LOAD(4, 4), LOAD(5, 8),
        OP(BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 16),
        OP(BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0xffff),
        UNLESS(3, BPF_DEVCG_ACC_MKNOD, 2), ALLOW,
        CHARACTER(1, 3), CHARACTER(1, 5), CHARACTER(1, 7), CHARACTER(1, 8), CHARACTER(1, 9),
        CHARACTER(5, 0), CHARACTER(5, 2), UNLESS(2, 2, 3), UNLESS(4, 136, 2), ALLOW,
        OP(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0), OP(BPF_JMP | BPF_EXIT, 0, 0, 0),
    };
    static union bpf_attr load = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
        .insn_cnt = sizeof program / sizeof *program,
    };
    static union bpf_attr attach = {.attach_type = BPF_CGROUP_DEVICE};
    load.insns = (__u64)program;
    load.license = (__u64) "Apache-2.0";
    long loaded = must(call(bpf, BPF_PROG_LOAD, &load, 72, 0, 0));
    attach.target_fd = directory;
    attach.attach_bpf_fd = loaded;
    attach.attach_flags = BPF_F_ALLOW_MULTI;
    must(call(bpf, BPF_PROG_ATTACH, &attach, 20, 0, 0));
    call(close, loaded, 0, 0, 0, 0);
}

static void mount_at(const char *source, const char *target, const char *type, long flags,
                     const char *data)
{
    must(call(mount, source, target, type, flags, data));
}

static void mounts(void)
{
    long closed = NOSUID | NOEXEC | NODEV;
    mount_at("proc", "proc", "proc", 0, 0);
    mount_at("tmpfs", "dev", "tmpfs", NOSUID | STRICTATIME, "mode=755,size=65536k");
    must(call(mkdir, "dev/pts", 0755, 0, 0, 0));
    mount_at("devpts", "dev/pts", "devpts", NOSUID | NOEXEC,
             "newinstance,ptmxmode=0666,mode=0620,gid=5");
    must(call(mkdir, "dev/shm", 0755, 0, 0, 0));
    mount_at("shm", "dev/shm", "tmpfs", closed, "mode=1777,size=65536k");
    must(call(mkdir, "dev/mqueue", 0755, 0, 0, 0));
    mount_at("mqueue", "dev/mqueue", "mqueue", closed, 0);
    mount_at("sysfs", "sys", "sysfs", closed | SUPER_RDONLY, 0);
    if (!*trees) {
        mount_at("cgroup", "sys/fs/cgroup", "cgroup2", closed | SUPER_RDONLY | RELATIME, 0);
        return;
    }
    mount_at("cgroup", "sys/fs/cgroup", "tmpfs", closed | RELATIME, "mode=755");
    for (char **tree = trees; *tree; tree++) {
        char source[512], target[256] = "sys/fs/cgroup/";
        path_of(source, *tree, "");
        for (long at = 0; at <= length(*tree); at++)
            target[14 + at] = (*tree)[at];
        must(call(mkdir, target, 0755, 0, 0, 0));
        mount_at(source, target, 0, BIND, 0);
        mount_at(0, target, 0, BIND | REMOUNT | SUPER_RDONLY | closed | RELATIME, 0);
    }
    mount_at(0, "sys/fs/cgroup", 0, BIND | REMOUNT | SUPER_RDONLY | closed | RELATIME, 0);
}

/* One bind: a tree, its attribute, its place. */
static void bind_data(int number)
{
    char target[] = "binds/0000";
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    for (int digit = 9, rest = number; digit > 5; digit--, rest /= 10)
        target[digit] += rest % 10;
    long tree = must(call(open_tree, AT_FDCWD, "../volume", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC,
                          0, 0));
    must(call(mount_setattr, tree, "", AT_EMPTY_PATH, &read_only, sizeof read_only));
    must(call(move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH));
    call(close, tree, 0, 0, 0, 0);
}

static void devices(void)
{
    static const struct {
        const char *path;
        int major, minor;
    } nodes[] = {
        {"dev/null", 1, 3},   {"dev/zero", 1, 5},    {"dev/full", 1, 7},
        {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
    };
    static const char *const links[][2] = {
        {"/proc/self/fd", "dev/fd"},          {"/proc/self/fd/0", "dev/stdin"},
        {"/proc/self/fd/1", "dev/stdout"},    {"/proc/self/fd/2", "dev/stderr"},
        {"/proc/kcore", "dev/core"},          {"pts/ptmx", "dev/ptmx"},
    };
    call(umask, 0, 0, 0, 0, 0);
    for (int node = 0; node < 6; node++)
        must(call(mknod, nodes[node].path, S_IFCHR | 0666,
                  nodes[node].major << 8 | nodes[node].minor, 0, 0));
    call(umask, 022, 0, 0, 0, 0);
    for (int link = 0; link < 6; link++)
        must(call(symlink, links[link][0], links[link][1], 0, 0, 0));
}

/* A kernel has some of these paths and lacks others: what is missing needs no cover. */
static void protect(void)
{
    static const char *const files[] = {
        "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats",
        "proc/sched_debug", "proc/timer_list", "proc/timer_stats",
    };
    static const char *const directories[] = {
        "proc/acpi", "proc/asound", "proc/scsi", "sys/devices/virtual/powercap", "sys/firmware",
    };
    static const char *const closed[] = {
        "proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger",
    };
    for (int path = 0; path < 5; path++) {
        if (call(mount, closed[path], closed[path], 0, BIND | RECURSIVE, 0) < 0)
            continue;
        must(call(mount, 0, closed[path], 0, BIND | REMOUNT | SUPER_RDONLY, 0));
    }
    for (int path = 0; path < 7; path++)
        call(mount, "/dev/null", files[path], 0, BIND, 0);
    for (int path = 0; path < 5; path++)
        call(mount, "tmpfs", directories[path], "tmpfs", SUPER_RDONLY, 0);
}

static void container(void *unused)
{
    struct ifreq up = {.ifr_name = "lo"};
    char path[512];
    (void)unused;

    for (char **tree = trees; *tree; tree++)
        write_file(path_of(path, *tree, "/tasks"), "0");
    must(call(setsid, 0, 0, 0, 0, 0));
    must(call(sethostname, "floor", 5, 0, 0, 0));
    up.ifr_flags = IFF_UP;
    long any = must(call(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0));
    must(call(ioctl, any, SIOCSIFFLAGS_NUMBER, &up, 0, 0));
    call(close, any, 0, 0, 0, 0);

    mount_at(0, "/", 0, RECURSIVE | SLAVE, 0);
    mount_at(rootfs, rootfs, 0, BIND | RECURSIVE, 0);
    must(call(chdir, rootfs, 0, 0, 0, 0));
    mounts();
    for (int number = 0; number < binds; number++)
        bind_data(number);
    devices();
    protect();
    mount_at(0, rootfs, 0, BIND | REMOUNT | SUPER_RDONLY, 0);
    must(call(pivot_root, ".", ".", 0, 0, 0));
    must(call(umount2, ".", DETACH, 0, 0, 0));
    must(call(chdir, "/", 0, 0, 0, 0));

    become_program();
}

__attribute__((used)) void begin(long *entry)
{
    static struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
                 | CLONE_NEWUTS,
        .exit_signal = SIGCHLD,
        .stack_size = sizeof stack,
    };
    char **argv = (char **)(entry + 1), path[512];
    int status = 0;

    if (entry[0] < 4)
        leave(125);
    rootfs = argv[1];
    cgroup = argv[2];
    for (const char *digit = argv[3]; *digit; digit++)
        binds = 10 * binds + (*digit - '0');
    trees = argv + 4;

    args.stack = (__u64)stack;
    for (char **tree = trees; *tree; tree++)
        must(call(mkdir, path_of(path, *tree, ""), 0755, 0, 0, 0));
    if (*trees) {
        inherit("/cpuset.cpus");
        inherit("/cpuset.mems");
        devices_v1();
    } else {
        must(call(mkdir, path_of(path, "", ""), 0755, 0, 0, 0));
        args.cgroup = must(call(open, path, O_DIRECTORY | O_CLOEXEC, 0, 0, 0));
        devices_v2(args.cgroup);
        args.flags |= CLONE_INTO_CGROUP | CLONE_NEWCGROUP;
    }
    long pid = must(spawn(&args, container, 0));
    must(call(wait4, pid, &status, 0, 0, 0));
    for (char **tree = trees; *tree; tree++)
        must(call(rmdir, path_of(path, *tree, ""), 0, 0, 0, 0));
    if (!*trees)
        must(call(rmdir, path_of(path, "", ""), 0, 0, 0, 0));
    leave(status >> 8 & 255);
}
