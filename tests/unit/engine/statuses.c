/* Every status of the C face: p.dyqe bad.dyqe empty.dyqe none.dyqe. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dyadiq_engine.h"

#define EXPECT(call, status, words)                                                                      \
    do {                                                                                                 \
        dyq_status got = (call);                                                                         \
        if (got != (status) || ((status) != DYQ_OK && strstr(dyq_message(), words) == NULL)) {           \
            fprintf(stderr, "%s: got status %d, message '%s'\n", #call, (int)got, dyq_message());        \
            exit(1);                                                                                     \
        }                                                                                                \
    } while (0)

static size_t n_seen, n_codes;
static const dyq_program* seen_program;
static void* seen_arena;

static void observe(void* context, size_t step, int64_t nanoseconds) {
    static int32_t codes[1 << 16];
    if (context != &n_seen || step != n_seen++ || nanoseconds < 0) {
        exit(1);
    }
    n_codes += dyq_step_size(seen_program, step);
    EXPECT(dyq_step_codes(seen_program, seen_arena, step, codes), DYQ_OK, "");
}

int main(int argc, char** argv) {
    dyq_program* p = NULL;
    dyq_pool* pool = NULL;
    (void)argc;
    EXPECT(dyq_open(NULL, NULL, &p), DYQ_BAD_ARGUMENT, "must not be null");
    EXPECT(dyq_open(argv[4], NULL, &p), DYQ_NO_FILE, "No such file");
    EXPECT(dyq_open(argv[3], NULL, &p), DYQ_NO_FILE, "cannot be read");
    EXPECT(dyq_open(argv[2], NULL, &p), DYQ_BAD_FILE, "another length");
    EXPECT(dyq_open(argv[1], "z80", &p), DYQ_NO_ISA, "z80");
    EXPECT(dyq_open_memory("", 0, NULL, &p), DYQ_BAD_FILE, "shorter than a header");
    EXPECT(dyq_open_memory(NULL, 0, NULL, &p), DYQ_BAD_ARGUMENT, "must not be null");
    EXPECT(dyq_open(argv[1], "portable", &p), DYQ_OK, "");
    if (strcmp(dyq_isa(p), "portable") != 0 || dyq_api_version() != DYQ_API_VERSION) {
        return 1;
    }
    EXPECT(dyq_pool_open(0, &pool), DYQ_BAD_ARGUMENT, "1 to 256");
    EXPECT(dyq_pool_open(2, &pool), DYQ_OK, "");

    size_t bytes = dyq_arena_bytes(p), n_values = dyq_input_size(p, 0), n_bytes = 0;
    char* room = malloc(bytes + 2 * DYQ_ALIGNMENT);
    char* arena = room + (DYQ_ALIGNMENT - (uintptr_t)room % DYQ_ALIGNMENT);
    const char* text = dyq_structure(p, &n_bytes);
    if (n_bytes == 0 || text[0] != '{' || text[n_bytes - 1] != '}' || dyq_input_size(p, 7) != 0) {
        return 1;
    }
    float* input = calloc(n_values, sizeof(float));
    const float* inputs[1] = {input};
    int32_t* outputs[2] = {calloc(dyq_output_size(p, 0), sizeof(int32_t)), calloc(dyq_output_size(p, 1), sizeof(int32_t))};
    float* values = calloc(dyq_output_size(p, 0), sizeof(float));
    EXPECT(dyq_run(p, arena, bytes - 1, inputs, outputs, NULL, NULL, NULL), DYQ_BAD_ARGUMENT, "smaller than");
    EXPECT(dyq_run(p, arena + 1, bytes, inputs, outputs, NULL, NULL, NULL), DYQ_BAD_ARGUMENT, "not aligned");
    EXPECT(dyq_run(p, arena, bytes, inputs, NULL, NULL, NULL, NULL), DYQ_BAD_ARGUMENT, "must not be null");
    seen_program = p, seen_arena = arena;
    EXPECT(dyq_run(p, arena, bytes, inputs, outputs, pool, observe, &n_seen), DYQ_OK, "");
    if (n_seen != dyq_n_steps(p) || n_codes == 0 || dyq_step_size(p, n_seen) != 0) {
        return 1;
    }
    EXPECT(dyq_step_codes(p, arena, n_seen, outputs[0]), DYQ_BAD_ARGUMENT, "no such step");
    EXPECT(dyq_real_values(p, 9, outputs[0], values), DYQ_BAD_ARGUMENT, "no such output");
    EXPECT(dyq_real_values(p, 0, outputs[0], values), DYQ_OK, "");
    input[n_values - 1] = (float)INFINITY;
    EXPECT(dyq_run(p, arena, bytes, inputs, outputs, NULL, NULL, NULL), DYQ_NOT_FINITE, "NaN or infinite");
    EXPECT(dyq_run(p, arena, bytes, inputs, outputs, pool, NULL, NULL), DYQ_NOT_FINITE, "NaN or infinite");
    dyq_pool_close(pool);
    dyq_close(p);
    dyq_close(NULL);
    free(room), free(input), free(outputs[0]), free(outputs[1]), free(values);
    return 0;
}
