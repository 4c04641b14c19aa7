/* Runs programs of kernels in an emulator: harness KERNELS JOB RESULT
 *
 * For every line that it reads it takes a job from the files with these names, and answers with a line when the result
 * is written: the emulator translates its own beginning, the C library's and a kernel's code once, not for each job.
 *
 * KERNELS: a line for each kernel, "library symbol"; a program calls them by line number. Line 0 is the runner.
 * JOB, in words of 64 bits: how many words the program's header has and how many a phase of it, where in the header the
 * number of phases is, where in the program the C library's `syscall` belongs, and how many words that has; the program;
 * how many buffers; for each of them its bytes, where in it the address lies that the kernels are given, and its content.
 * RESULT: the buffers' contents, one after the other.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_KERNELS = 1000, MOST_BUFFERS = 12, MOST_THREADS = 16, CACHE_LINE = 64 };

static void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "harness: %s\n", what);
        exit(1);
    }
}

/* What the program takes for an OpenMP runtime. */

static _Thread_local int thread;
static int thread_number(void) { return thread; }

struct member { void (*body)(void *); void *data; int thread; };
static void *started(void *given) {
    struct member *member = given;
    thread = member->thread;
    member->body(member->data);
    return NULL;
}

static void parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
    (void)flags;
    pthread_t other[MOST_THREADS];
    struct member members[MOST_THREADS];
    check(threads <= MOST_THREADS, "too many threads");
    for (unsigned n = 0; n < threads; n++) {
        members[n] = (struct member){body, data, n};
        check(!pthread_create(&other[n], NULL, started, &members[n]), "a thread does not start");
    }
    for (unsigned n = 0; n < threads; n++) pthread_join(other[n], NULL);
}

static char paths[MOST_KERNELS][256], symbols[MOST_KERNELS][64];

static int64_t address_of_kernel(int64_t line) {
    void *library = dlopen(paths[line], RTLD_NOW);
    check(library != NULL, "a library of kernels does not load");
    void *found = dlsym(library, symbols[line]);
    check(found != NULL, symbols[line]);
    return (int64_t)found;
}

static int64_t word(FILE *file) {
    int64_t value;
    check(fread(&value, sizeof value, 1, file) == 1, "JOB ends too early");
    return value;
}

/* In memory of exactly that size, so that nothing lies between it and what the emulator guards. */
static char *bytes(FILE *file, int64_t size) {
    char *memory = aligned_alloc(CACHE_LINE, (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    check(memory != NULL && fread(memory, 1, size, file) == (size_t)size, "JOB ends too early");
    return memory;
}

static void run(char **names) {
    FILE *kernels = fopen(names[1], "r"), *job = fopen(names[2], "rb"), *result = fopen(names[3], "wb");
    check(kernels && job && result, "a file does not open");
    for (int line = 0; line < MOST_KERNELS && fscanf(kernels, "%255s %63s", paths[line], symbols[line]) == 2; line++) {}

    int64_t header = word(job), a_phase = word(job), phases = word(job), system_call = word(job);
    int64_t length = word(job);
    int64_t *program = (int64_t *)bytes(job, length * 8);
    program[0] = (int64_t)parallel, program[1] = (int64_t)thread_number;
    program[system_call] = (int64_t)syscall, program[system_call + 1] = SYS_futex;
    for (int64_t phase = 0; phase < program[phases]; phase++) {
        int64_t *kernel = &program[header + a_phase * phase];
        *kernel = address_of_kernel(*kernel);
    }

    int64_t buffers = word(job), size[MOST_BUFFERS], at[MOST_BUFFERS] = {0};
    char *memory[MOST_BUFFERS];
    check(buffers <= MOST_BUFFERS, "too many buffers");
    for (int64_t n = 0; n < buffers; n++) {
        size[n] = word(job);
        int64_t inside = word(job);
        memory[n] = bytes(job, size[n]);
        at[n] = (int64_t)memory[n] + inside;
    }

    /* The runner takes as many addresses as it knows buffers; those beyond stay unread. */
    void (*call)(int64_t *, int64_t *, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                 int64_t, int64_t, int64_t) = (void *)address_of_kernel(0);
    char *copy = malloc(length * 8);
    call(program, (int64_t *)copy, at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9],
         at[10], at[11]);

    for (int64_t n = 0; n < buffers; n++) {
        check(fwrite(memory[n], 1, size[n], result) == (size_t)size[n], "disk full");
        free(memory[n]);
    }
    free(program), free(copy);
    check(!fclose(kernels) && !fclose(job) && !fclose(result), "disk full");
}

int main(int count, char **names) {
    check(count == 4, "usage: harness KERNELS JOB RESULT");
    for (int asked; (asked = getchar()) != EOF;) {
        if (asked != '\n') continue;
        run(names);
        check(puts("done") != EOF && !fflush(stdout), "nobody listens");
    }
}
