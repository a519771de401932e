/* System calls without a C library, whose start alone costs more than the floor
   may. x86_64 only. */
#include <linux/sched.h>
#include <linux/types.h>
#include <sys/syscall.h>

static inline long call6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define call(name, a, b, c, d, e) \
    call6(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* clone3(2) for a child that shares our memory and has a stack of its own: `child`
   runs there, must not return, and we sleep until it has executed or exited. */
static inline long spawn(struct clone_args *args, void (*child)(void *), void *argument)
{
    register void *run __asm__("r8") = (void *)child;
    register void *with __asm__("r9") = argument;
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(SYS_clone3), "D"(args), "S"(sizeof *args), "r"(run), "r"(with)
                     : "rcx", "r11", "memory");
    return result;
}

_Noreturn static inline void leave(int status)
{
    for (;;)
        call(exit_group, status, 0, 0, 0, 0);
}

/* The kernel enters with argc, argv and the environment on the stack. */
__asm__(".globl _start\n"
        "_start:\n\t"
        "xor %ebp, %ebp\n\t"
        "mov %rsp, %rdi\n\t"
        "and $-16, %rsp\n\t"
        "call begin\n\t"
        "hlt\n");
