/* Runs p.dyqe: counts what dyq_run allocates in one thread and in two, then forbids every system call and runs it again. */
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dyadiq_engine.h"

extern void* __libc_malloc(size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);
static volatile long n_allocations;

/* All of this process, the library's operator new among it, allocates here. */
void* malloc(size_t size) {
    __atomic_fetch_add(&n_allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}

int main(int argc, char** argv) {
    dyq_program* p = NULL;
    dyq_pool* pools[2] = {NULL, NULL};
    float* inputs[8];
    int32_t* outputs[8];
    size_t i, k;
    if (argc != 2 || dyq_open(argv[1], NULL, &p) != DYQ_OK || dyq_pool_open(2, &pools[1]) != DYQ_OK) {
        return 1;
    }
    if (n_allocations == 0) {
        return 2; /* it is not counted */
    }
    void* arena = __libc_memalign(DYQ_ALIGNMENT, dyq_arena_bytes(p));
    for (i = 0; i < dyq_n_inputs(p); ++i) {
        inputs[i] = calloc(dyq_input_size(p, i), sizeof(float));
    }
    for (i = 0; i < dyq_n_outputs(p); ++i) {
        outputs[i] = calloc(dyq_output_size(p, i), sizeof(int32_t));
    }
    for (k = 0; k < 2; ++k) {
        long before = n_allocations;
        dyq_status status =
            dyq_run(p, arena, dyq_arena_bytes(p), (const float* const*)inputs, outputs, pools[k], NULL, NULL);
        if (status != DYQ_OK || n_allocations != before) {
            return 3;
        }
    }
    dyq_pool_close(pools[1]); /* what follows holds for one thread */
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) {
        return 77; /* the system does not know it */
    }
    dyq_status status = dyq_run(p, arena, dyq_arena_bytes(p), (const float* const*)inputs, outputs, NULL, NULL, NULL);
    syscall(SYS_exit, status == DYQ_OK ? 0 : 4);
    return 5;
}
