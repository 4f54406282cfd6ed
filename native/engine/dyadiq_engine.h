/* The engine for programs in C: opens compiled programs (.dyqe), runs them in memory that the caller brings.
 *
 * Link with libdyadiq_engine.a and a C++ runtime: cc main.c -ldyadiq_engine -lstdc++ -lpthread. docs/howto/c-library.md
 * has a whole program. A function that can fail returns a status, writes its results only where that is DYQ_OK, and
 * leaves what was wrong in words for dyq_message. No exception leaves the library, and nothing is printed.
 *
 * A program is read-only once it is open: any number of runs may use it at once, each with its own arena and pool.
 */
#ifndef DYADIQ_ENGINE_H
#define DYADIQ_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DYQ_API_VERSION 1
#define DYQ_ALIGNMENT 64 /* of the arena, and of a file in memory */

typedef enum {
    DYQ_OK = 0,
    DYQ_BAD_ARGUMENT = 1, /* a null pointer, an index out of range, an arena too small or not aligned */
    DYQ_BAD_FILE = 2,     /* damaged, of another version, or no compiled program */
    DYQ_NO_FILE = 3,      /* missing, or not readable */
    DYQ_NO_MEMORY = 4,
    DYQ_NO_ISA = 5,      /* no such kernels, or not on this machine */
    DYQ_NO_THREADS = 6,  /* the system starts no more of them */
    DYQ_NOT_FINITE = 7,  /* an input is NaN or infinite; outputs mean nothing */
    DYQ_NO_SCALE = 8,    /* an output of which the program does not say what its codes are worth */
    DYQ_INTERNAL = 9,
    DYQ_NO_OPERATOR = 10 /* the library was built without one that the program needs */
} dyq_status;

typedef struct dyq_program dyq_program; /* a file, checked; points into it */
typedef struct dyq_pool dyq_pool;       /* threads, which sleep between runs */

/* What went wrong in the last call of this thread that did not return DYQ_OK; never null. */
const char* dyq_message(void);
/* DYQ_API_VERSION of the library. */
int32_t dyq_api_version(void);

/* Map a file and check all of it. `isa`: name of kernels; null: the best of this machine, or that of DYADIQ_ISA. */
dyq_status dyq_open(const char* path, const char* isa, dyq_program** program);
/* The same for a file in memory, aligned to DYQ_ALIGNMENT, which must outlive the program. */
dyq_status dyq_open_memory(const void* data, size_t size, const char* isa, dyq_program** program);
void dyq_close(dyq_program* program); /* null is no harm */

/* Facts of a program; 0 or null for what is not there. */
const char* dyq_isa(const dyq_program* program);
size_t dyq_arena_bytes(const dyq_program* program); /* exact: a run touches no other memory of the caller's */
size_t dyq_n_inputs(const dyq_program* program);
size_t dyq_n_outputs(const dyq_program* program);
size_t dyq_n_steps(const dyq_program* program);
size_t dyq_input_size(const dyq_program* program, size_t input);    /* values of one sample, [C, H, W] */
size_t dyq_output_size(const dyq_program* program, size_t output);  /* codes of one sample, [C, H, W] */
/* JSON: names and shapes of inputs and outputs, operator and node of every step. Not terminated. */
const char* dyq_structure(const dyq_program* program, size_t* n_bytes);

/* `n_threads` in all, that of the caller of dyq_run among them; 1 to 256. */
dyq_status dyq_pool_open(int32_t n_threads, dyq_pool** pool);
void dyq_pool_close(dyq_pool* pool); /* null is no harm; no run may use it */

/* Called behind every step, in the thread of the run, when all of the step is done. */
typedef void (*dyq_observer)(void* context, size_t step, int64_t nanoseconds);

/* Run one sample: real values in, which the program quantizes, codes out.
 *   arena    at least dyq_arena_bytes, aligned to DYQ_ALIGNMENT; its contents mean nothing before and after
 *   pool     null: in the caller's thread alone, without a system call or an allocation; one run at a time uses a pool
 *   observer null: none
 * Threads that run need 256 KB of stack, the caller's and those of a pool (whose size is the system's default). */
dyq_status dyq_run(const dyq_program* program, void* arena, size_t arena_bytes, const float* const* inputs,
                   int32_t* const* outputs, dyq_pool* pool, dyq_observer observer, void* context);

/* What codes of an output are worth: (code - zero point) * scale, in float64, then rounded to float. */
dyq_status dyq_real_values(const dyq_program* program, size_t output, const int32_t* codes, float* values);

/* Codes that a step made, [C, H, W]: 0 for steps that only fill margins. */
size_t dyq_step_size(const dyq_program* program, size_t step);
int64_t dyq_step_macs(const dyq_program* program, size_t step); /* products */
/* Copy them out of the arena; only in the observer, right behind that step: later ones use the same memory. */
dyq_status dyq_step_codes(const dyq_program* program, const void* arena, size_t step, int32_t* codes);

#ifdef __cplusplus
}
#endif

#endif
