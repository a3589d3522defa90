/* What a Cortex-M needs before newlib's start-up: a vector table, and the FPU switched on. */
extern void _start(void);
extern unsigned long stack_top;

static void reset(void)
{
#ifdef __ARM_FP
    *(volatile unsigned long *)0xE000ED88UL |= 0xFUL << 20;
    __asm volatile("dsb\nisb");
#endif
    _start();
}

static void stop(void)
{
    for (;;) {
    }
}

static const struct {
    unsigned long *stack;
    void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    &stack_top, {reset, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop, stop},
};
