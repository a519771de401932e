/* What the floors of `run` and of `exec` have in common. */
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "calls.h"

#define CGROUPS "/sys/fs/cgroup/"

/* The name of the cgroup, from the root of each hierarchy. */
static char *cgroup;

static long length(const char *text)
{
    long count = 0;
    while (text[count])
        count++;
    return count;
}

/* Ends the program with the line that failed; nothing is left out in silence. */
static long must_at(long result, int line)
{
    char text[] = "floor: line 000 failed\n";
    if (result >= 0)
        return result;
    text[12] += line / 100 % 10;
    text[13] += line / 10 % 10;
    text[14] += line % 10;
    call(write, 2, text, sizeof text - 1, 0, 0);
    leave(125);
}
#define must(result) must_at(result, __LINE__)

static char *path_of(char *buffer, const char *tree, const char *file)
{
    const char *parts[] = {CGROUPS, tree, cgroup, file};
    char *end = buffer;
    for (int part = 0; part < 4; part++)
        for (const char *from = parts[part]; *from;)
            *end++ = *from++;
    *end = 0;
    return buffer;
}

static void write_file(const char *path, const char *text)
{
    long file = must(call(open, path, O_WRONLY | O_CLOEXEC, 0, 0, 0));
    must(call(write, file, text, length(text), 0, 0));
    call(close, file, 0, 0, 0, 0);
}

static void capabilities(void)
{
    static struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const unsigned kept = 1 << CAP_AUDIT_WRITE | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
    static struct __user_cap_data_struct data[2];
    for (unsigned number = 0; number <= CAP_LAST_CAP; number++)
        if (number > 31 || !(kept >> number & 1))
            must(call(prctl, PR_CAPBSET_DROP, number, 0, 0, 0));
    data[0].effective = data[0].permitted = kept;
    must(call(capset, &header, data, 0, 0, 0));
}

/* With what is left of a process that is in the container by now: limits, rights, program. */
static void become_program(void)
{
    static char *const argv[] = {"true", 0};
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", 0};
    static const struct rlimit files = {1024, 1024};

    must(call(prlimit64, 0, RLIMIT_NOFILE, &files, 0, 0));
    capabilities();
    must(call(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    must(call(execve, "/bin/true", argv, environment, 0, 0));
}
