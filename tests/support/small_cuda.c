/* A CUDA driver with one card of 96 MiB in this process's memory: as much of it as overwriting that memory needs.

   The card begins full of a tenant's bytes. When its context ends, how many of them are left goes to SMALL_CUDA_REPORT.
   SMALL_CUDA_HELD bytes are somebody else's and cannot be allocated. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOTAL ((size_t)96 << 20)
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2 };

static unsigned char *memory;
static size_t used;

static size_t held(void) { const char *text = getenv("SMALL_CUDA_HELD"); return text ? strtoul(text, NULL, 10) : 0; }

int cuInit(unsigned flags) { (void)flags; return SUCCESS; }
int cuDeviceGetCount(int *count) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *count = visible && *visible ? 1 : 2;
    return SUCCESS;
}
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? SUCCESS : INVALID_VALUE; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    (void)flags; (void)device;
    memory = malloc(TOTAL);
    memset(memory, 0xA5, TOTAL);
    *context = memory;
    return SUCCESS;
}
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = TOTAL - held(); *total_bytes = TOTAL;
    return SUCCESS;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > TOTAL - held() - used) return OUT_OF_MEMORY;
    *address = (uint64_t)(uintptr_t)(memory + used);
    used += size;
    return SUCCESS;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
    memset((void *)(uintptr_t)address, value, size);
    return SUCCESS;
}
int cuCtxSynchronize(void) { return SUCCESS; }
int cuCtxDestroy_v2(void *context) {
    size_t left = 0;
    for (size_t i = 0; i < TOTAL; i++) left += memory[i] == 0xA5;
    FILE *report = fopen(getenv("SMALL_CUDA_REPORT"), "w");
    fprintf(report, "%zu", left);
    fclose(report);
    free(context);
    return SUCCESS;
}
