/* A CUDA driver with one card for the probe inside a container: as many of its calls as that program makes, and the one kernel it
   brings, in C. MIX_CUDA says what is wrong with the card: "renamed", "wrong" (a word of each launch differs), "none",
   "lost" (a launch fails). It takes the kernel by its PTX's entry only, and the name by what it is asked for. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_PTX = 218, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

static int is(const char *fault) { const char *said = getenv("MIX_CUDA"); return said && strcmp(said, fault) == 0; }

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : is("none") ? NO_DEVICE : SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal == 0 ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, is("renamed") ? "NVIDIA H200 NVL" : "NVIDIA H200", (size_t)length);
    return device == 7 ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetUuid(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(0x10 + i);
    return device == 7 ? SUCCESS : INVALID_VALUE;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)139 << 30; return device == 7 ? SUCCESS : INVALID_VALUE; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return device == 7 ? SUCCESS : INVALID_VALUE; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device == 7 ? SUCCESS : INVALID_VALUE; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? SUCCESS : INVALID_VALUE; }
int cuModuleLoadData(void **module, const char *image) {
    if (strncmp(image, ".version ", 9) || !strstr(image, ".visible .entry mix(")) return INVALID_PTX;
    *module = (void *)2;
    return SUCCESS;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = (void *)3;
    return module == (void *)2 && strcmp(name, "mix") == 0 ? SUCCESS : NOT_FOUND;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    *address = (uint64_t)(uintptr_t)calloc(1, bytes);
    return SUCCESS;
}
int cuMemcpyDtoH_v2(void *host, uint64_t address, size_t bytes) {
    memcpy(host, (void *)(uintptr_t)address, bytes);
    return SUCCESS;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    if (function != (void *)3 || gy * gz * by * bz != 1 || shared || stream || extra) return INVALID_VALUE;
    if (is("lost")) return LAUNCH_FAILED;
    uint32_t *out = (uint32_t *)(uintptr_t) * (uint64_t *)parameters[0];
    uint32_t first = *(uint32_t *)parameters[1], second = *(uint32_t *)parameters[2], rounds = *(uint32_t *)parameters[3];
    for (uint32_t index = 0; index < gx * bx; index++) {
        uint32_t x = first ^ index;
        for (uint32_t left = rounds; left; left--) {
            x = x * 0x846CA68Bu + second;
            x ^= x >> 15;
            x *= 0x7FEB352Du;
            x ^= x >> 13;
        }
        out[index] = x;
    }
    if (is("wrong")) out[gx * bx - 1] ^= 1;
    return SUCCESS;
}
