/* The process of a pause container: it holds the namespaces that the containers of a task share, and does nothing else.
 *
 * SIGINT and SIGTERM end it with 0 and one line; SIGCHLD makes it reap, as it is process 1 of a shared PID namespace.
 * No C library: the image is this one file, so no licence but the agent's own applies to it. The signals are blocked
 * and taken one by one, because the kernel drops an unblocked signal of process 1 that has no handler.
 */
#include <signal.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d) {
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static long call(long number, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
#else
#error "x86_64 and aarch64 only"
#endif

#define BIT(number) (1UL << ((number) - 1))
#define SAY(text) call(SYS_write, 2, (long)(text), sizeof(text) - 1, 0)
#define ANY_CHILD (-1L)
#define NO_WAIT 1L /* WNOHANG */
#define INTERRUPTED (-4L) /* -EINTR */

__attribute__((noreturn)) static void leave(long status) {
    for (;;)
        call(SYS_exit_group, status, 0, 0, 0);
}

__attribute__((noreturn, used)) void _start(void) {
    static unsigned long wanted = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);
    call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&wanted, 0, sizeof wanted);
    if (call(SYS_getpid, 0, 0, 0, 0) != 1)
        SAY("Warning: pause should be the first process\n");
    for (;;) {
        switch (call(SYS_rt_sigtimedwait, (long)&wanted, 0, 0, sizeof wanted)) {
        case SIGINT:
            SAY("Shutting down, got signal: Interrupt\n");
            leave(0);
        case SIGTERM:
            SAY("Shutting down, got signal: Terminated\n");
            leave(0);
        case SIGCHLD:
            while (call(SYS_wait4, ANY_CHILD, 0, NO_WAIT, 0) > 0)
                ;
            break;
        case INTERRUPTED:
            break;
        default: /* the kernel refuses the call: nothing would be reaped or stopped any more */
            leave(1);
        }
    }
}
