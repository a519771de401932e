/* launcher RESULT time|count PROGRAM ARGUMENT...

   Runs the program and writes to the file RESULT what wait4(2) says of it: status,
   wall time in nanoseconds, struct rusage; then how many instructions it and its
   children have executed outside of the kernel, if `count` is asked for and the
   machine counts them, or -1. The peak memory of a process begins with that of the
   process that executed it, so whatever measures it has to be tiny. */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include "calls.h"

static char stack[4096] __attribute__((aligned(16)));
static char **arguments, **environment;

static void child(void *unused)
{
    (void)unused;
    call(execve, arguments[0], arguments, environment, 0, 0);
    leave(127);
}

static long nanoseconds(void)
{
    struct timespec now;
    call(clock_gettime, CLOCK_MONOTONIC, &now, 0, 0, 0);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* A counter of what is executed from the next execve on, or an error. It is part of every
   clone and every switch of the program's, so nobody is timed with one. */
static long counter(void)
{
    static struct perf_event_attr what = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof what,
        .config = PERF_COUNT_HW_INSTRUCTIONS,
        .disabled = 1,
        .inherit = 1,
        .enable_on_exec = 1,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    return call(perf_event_open, &what, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

__attribute__((used)) void begin(long *entry)
{
    static struct {
        long status, wall;
        struct rusage usage;
        long instructions;
    } result = { .instructions = -1 };
    static struct clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK,
        .exit_signal = SIGCHLD,
        .stack_size = sizeof stack,
    };
    long count = entry[0], start, file, pid, count_of = -1;
    int status = 0;
    char **argv = (char **)(entry + 1);

    if (count < 4)
        leave(125);
    arguments = argv + 3;
    environment = argv + count + 1;
    args.stack = (__u64)stack;

    if (argv[2][0] == 'c')
        count_of = counter();
    start = nanoseconds();
    pid = spawn(&args, child, 0);
    if (pid < 0 || call(wait4, pid, &status, 0, &result.usage, 0) != pid)
        leave(125);
    result.wall = nanoseconds() - start;
    result.status = status;
    if (count_of >= 0 &&
        call(read, count_of, &result.instructions, sizeof result.instructions, 0, 0) !=
            sizeof result.instructions)
        leave(125);

    file = call(open, argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600, 0, 0);
    if (call(write, file, &result, sizeof result, 0, 0) != sizeof result)
        leave(125);
    leave(0);
}
