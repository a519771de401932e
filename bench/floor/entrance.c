/* entrance PID CGROUP [TREE...]

   What one more program in the default container costs where nothing is decided, read
   or recorded: the floor of `exec`. PID is the container's init process; CGROUP and
   the TREEs are those of the floor of `run`. */
#include <linux/sched.h>
#include <signal.h>

#include "container.h"

static char stack[32768] __attribute__((aligned(16)));
static char **trees;
static long init;

static void child(void *unused)
{
    long namespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    char path[512];
    (void)unused;

    for (char **tree = trees; *tree; tree++)
        write_file(path_of(path, *tree, "/tasks"), "0");
    must(call(setns, init, namespaces | (*trees ? 0 : CLONE_NEWCGROUP), 0, 0, 0));
    must(call(setsid, 0, 0, 0, 0, 0));
    become_program();
}

__attribute__((used)) void begin(long *entry)
{
    static struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK,
        .exit_signal = SIGCHLD,
        .stack_size = sizeof stack,
    };
    char **argv = (char **)(entry + 1), path[512];
    int status = 0;
    long pid = 0;

    if (entry[0] < 3)
        leave(125);
    for (const char *digit = argv[1]; *digit; digit++)
        pid = 10 * pid + (*digit - '0');
    cgroup = argv[2];
    trees = argv + 3;

    args.stack = (__u64)stack;
    init = must(call(pidfd_open, pid, 0, 0, 0, 0));
    must(call(setns, init, CLONE_NEWPID, 0, 0, 0));
    if (!*trees) {
        args.cgroup = must(call(open, path_of(path, "", ""), O_DIRECTORY | O_CLOEXEC, 0, 0, 0));
        args.flags |= CLONE_INTO_CGROUP;
    }
    pid = must(spawn(&args, child, 0));
    must(call(wait4, pid, &status, 0, 0, 0));
    leave(status >> 8 & 255);
}
